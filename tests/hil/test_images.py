"""What goes onto a device: bytecode, ROMFS, LittleFS, and the size budget."""

import subprocess
import tomllib
from pathlib import Path

import pytest

from keyferry_firmware import images, mpy, size, sources
from keyferry_hil import interpreter


def run(script: str, folder: Path, *arguments: str) -> str:
    """Run a script in MicroPython and return what it printed."""
    path = folder / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [*interpreter.command(), str(path), *arguments],
        env={"MICROPYPATH": ".frozen"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_micropython_reads_the_rom_image_as_it_was_built(tmp_path: Path) -> None:
    files = {
        "top.py": b"VALUE = 7\n",
        "package/__init__.py": b"",
        "package/inner/__init__.py": b"",
        "package/inner/leaf.py": b"from package.near import NEAR\n",
        "package/near.py": b"NEAR = 'near'\n",
        "zero": b"",
        "long": bytes(range(256)) * 20,
    }
    image = images.romfs(files)
    assert image == images.romfs(dict(reversed(files.items()))), "the order must not matter"
    (tmp_path / "rom.img").write_bytes(image)
    script = (
        "import sys, vfs\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "vfs.mount(vfs.VfsRom(memoryview(data)), '/rom')\n"
        "sys.path[:] = ['/rom']\n"
        "import top\nfrom package.inner.leaf import NEAR\n"
        "print(top.VALUE, NEAR, len(open('/rom/zero').read()))\n"
        "print(open('/rom/long', 'rb').read() == bytes(range(256)) * 20)\n"
    )
    assert run(script, tmp_path, str(tmp_path / "rom.img")) == "7 near 0\nTrue\n"


def test_a_flash_image_comes_back_as_it_was_written() -> None:
    files = {"config.json": b"{}", "deep/er/file": bytes(9000), "empty": b""}
    image = images.littlefs(files, 128 * 1024)
    assert len(image) == 128 * 1024
    assert images.read_littlefs(image) == files


def test_a_flash_has_whole_blocks() -> None:
    with pytest.raises(ValueError, match="multiple of 4096"):
        images.littlefs({}, 10_000)


def test_a_source_that_does_not_compile_is_named() -> None:
    with pytest.raises(mpy.CompileError, match=r"(?s)^broken\.py: .*SyntaxError"):
        mpy.compile_source(b"def f(:\n", "broken.py")


def test_the_same_source_gives_the_same_bytecode() -> None:
    source = b"def f(x):\n    assert x\n    return x + 1\n"
    first = mpy.compile_source(source, "m.py")
    assert first == mpy.compile_source(source, "m.py")
    assert len(mpy.compile_source(source, "m.py", optimise=0)) > len(first)


def _tables(compiled: bytes) -> tuple[int, int]:
    """How many strings and how many constant objects a .mpy has."""
    strings, at = mpy._number(compiled, 4)
    return strings, mpy._number(compiled, at)[0]


def test_every_module_has_a_constant_object(tmp_path: Path) -> None:
    # or else the interpreter keeps a pointer past its tables, and with it whatever lies there
    names = " = ".join(f"name_{i}" for i in range(14))
    compiled = mpy.compile_source(f"{names} = 7\n".encode(), "bare")
    assert _tables(compiled)[1] == 1
    assert mpy.with_constant(compiled) == compiled
    (tmp_path / "bare.mpy").write_bytes(compiled)
    script = "import bare\nprint(bare.name_0, bare.name_13)\n"
    assert run(script, tmp_path) == "7 7\n"
    for module, code in mpy.compile_all(sources.modules()).items():
        assert _tables(code)[1] >= 1, module


def test_what_is_not_bytecode_is_refused() -> None:
    with pytest.raises(ValueError, match="version 6"):
        mpy.with_constant(b"M\x05\x00\x1f\x00\x00")


def test_a_device_carries_core_and_agent_and_nothing_of_the_manager() -> None:
    names = set(sources.modules())
    assert {"keyferry_core/cbor.py", "keyferry_agent/agent.py"} <= names
    assert names.isdisjoint(sources.CPYTHON_ONLY)
    assert all(name.startswith(("keyferry_core/", "keyferry_agent/")) for name in names)


def test_the_budget_is_kept() -> None:
    written = tomllib.loads(size.BUDGET.read_text())
    sizes = size.measure(written["modules"])
    assert size.problems(sizes, written["modules"], written["totals"]) == []


def test_the_budget_finds_growth_and_what_it_does_not_know() -> None:
    sizes = [size.Size("p/a.mpy", 100, 90), size.Size("p/new.mpy", 10, None)]
    assert size.problems(sizes, {"p/a": 90, "p/gone": 5}, {"p": 105}) == [
        "p/a.mpy: 100 bytes, budget 90",
        "p/new.mpy: 10 bytes and no budget",
        "p/gone: a budget for no module",
        "p: 110 bytes in all, budget 105",
    ]
