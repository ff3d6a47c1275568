"""The preflight: heap of the built bytecode in the real interpreter, and what does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest

from keyferry_firmware import boards, build, preflight
from keyferry_firmware.problems import FirmwareProblem
from support.command import answer, command

VIRTUAL = boards.load("virtual")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> build.Build:
    place = tmp_path_factory.mktemp("preflight")
    (place / "main.py").write_text("print('hello')\n")
    return build.build(VIRTUAL, place)


def test_modules_come_after_those_that_they_import() -> None:
    order = preflight.order()
    assert len(order) == len(set(order))
    for earlier, later in (
        ("keyferry_core.errors", "keyferry_core.cbor"),
        ("keyferry_core.cbor", "keyferry_core.session"),
        ("keyferry_core.session", "keyferry_agent.sessions"),
    ):
        assert order.index(earlier) < order.index(later)


def test_it_measures_what_a_run_takes(made: build.Build) -> None:
    found = preflight.measure(VIRTUAL, made.files)
    assert found.completed
    preflight.check(found, made.record)
    assert 0 < sum(found.modules.values()) < found.imported < found.peak < found.heap
    assert found.modules["keyferry_core.session"] > 0
    assert 0 < found.largest < found.piece < found.heap - found.imported


@pytest.mark.parametrize("kib", [40, 80])
def test_a_heap_that_is_too_small_is_refused(made: build.Build, kib: int) -> None:
    found = preflight.measure(replace(VIRTUAL, heap=kib), made.files)
    assert not found.completed
    with pytest.raises(FirmwareProblem, match="a handshake does not end in its heap") as caught:
        preflight.check(found, made.record)
    assert "no module grew; most heap is with keyferry_" in str(caught.value)


def test_the_module_that_grew_is_named(made: build.Build) -> None:
    found = preflight.measure(VIRTUAL, made.files)
    modules = [dict(item) for item in made.record["modules"]]
    grown = next(item for item in modules if item["path"] == "keyferry_core/session.mpy")
    before = grown["size"]
    grown["size"] += 9000
    with pytest.raises(FirmwareProblem, match=r"over the budget: keyferry_core/session\.mpy has"):
        preflight.check(found, {**made.record, "modules": modules})
    # against an earlier build, growth alone is no problem while all fits
    built = {**made.record, "modules": modules}
    preflight.check(found, built, made.record)
    full = replace(found, flash=found.flash_limit + 1)
    with pytest.raises(FirmwareProblem, match=f"{before + 9000} bytes, before {before}"):
        preflight.check(full, built, made.record)


def test_the_build_prints_it_or_refuses(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("print('hello')\n")
    line = ("firmware", "build", "--app", tmp_path / "main.py", "--board")
    value = answer(tmp_path, *line, "esp32", "-o", tmp_path / "out")["preflight"]
    assert value["heap"] == 128 * 1024
    assert value["heap_imported"] < value["heap_handshake"] < value["heap"]
    text = (boards.folder() / "virtual.toml").read_text()
    small = tmp_path / "small.toml"
    small.write_text(text.replace('"virtual"', '"small"').replace("heap = 128", "heap = 64"))
    said = command(tmp_path, *line, small, "-o", tmp_path / "none", code=1).stderr
    assert "small: a handshake does not end in its heap of 65536 bytes" in said
    assert not (tmp_path / "none").exists()
