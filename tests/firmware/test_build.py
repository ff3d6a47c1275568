"""Builds: the same bytes each time, what is in them, and what they refuse."""

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from keyferry_firmware import boards, build, images, record, release, rom
from keyferry_firmware.problems import FirmwareProblem
from support.command import answer, command

MAIN = "import parts.leaf\nif __name__ == '__main__':\n    print('main runs', parts.leaf.VALUE)\n"


@pytest.fixture
def application(tmp_path: Path) -> Path:
    place = tmp_path / "application"
    (place / "parts").mkdir(parents=True)
    (place / "main.py").write_text(MAIN)
    (place / "parts" / "__init__.py").write_text("")
    (place / "parts" / "leaf.py").write_text("VALUE = 7\n")
    (place / "page.html").write_text("<p>")
    (place / ".hidden").write_text("stays out")
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_two_builds_are_equal_wherever_and_however(
    application: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "release.key"
    command(tmp_path, "firmware", "key", "new", key)
    line = ("firmware", "build", "--board", "virtual", "--no-preflight", "--key", key)
    command(tmp_path, *line, "--app", application, "-o", tmp_path / "one")
    other = tmp_path / "another place" / "of the same"
    shutil.copytree(application, other)
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    before = os.umask(0o077)
    try:
        command(tmp_path, *line, "--app", "another place/of the same", "-o", "two")
    finally:
        os.umask(before)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert {"rom.img", "littlefs.img", "build.json", "build.cose", "sbom.cdx.json"} <= one.keys()
    for path in [tmp_path / "two", *(tmp_path / "two").rglob("*")]:
        expected = 0o755 if path.is_dir() else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    for name, data in one.items():
        assert str(tmp_path).encode() not in data, name
        assert b"/work" not in data, name


def test_what_is_in_it(application: Path) -> None:
    made = build.build(boards.load("virtual"), application)
    files = made.files
    names = {name.removeprefix("bytecode/") for name in files if name.startswith("bytecode/")}
    assert {"main.mpy", "parts/leaf.mpy", "page.html", "keyferry_agent/agent.mpy"} <= names
    assert ".hidden" not in names
    assert rom.unseal(files["rom.img"]) == images.romfs(
        {name: files["bytecode/" + name] for name in names}
    )
    package = json.loads(files["package.json"])
    assert {target for target, _ in package["urls"]} == names
    assert all(source in files for _, source in package["urls"])
    frozen: list[str] = []
    exec(files["manifest.py"], {"freeze_mpy": frozen.append})
    assert frozen == ["bytecode"]
    assert set(images.read_littlefs(files["littlefs.img"])) == {
        "boot.py",
        "keyferry_boot.mpy",
        "main.py",
    }
    known = json.loads(files["build.json"])
    assert {item["path"] for item in known["files"]} == files.keys() - {"build.json"}
    assert known["tools"]["mpy-cross"]
    own = {item["path"] for item in known["modules"] if item["part"] == "application"}
    assert own == {"main.mpy", "parts/__init__.mpy", "parts/leaf.mpy", "page.html"}


def test_the_bill_of_materials_names_every_file_by_its_hash(application: Path) -> None:
    from cyclonedx.model.bom import Bom

    made = build.build(boards.load("virtual"), application)
    value = json.loads(made.files["sbom.cdx.json"])
    bom: Any = Bom.from_json(value)  # pyright: ignore[reportAttributeAccessIssue]
    found = {part.name: next(iter(part.hashes)).content for part in bom.components}
    assert found == {item["path"]: item["sha256"] for item in made.record["modules"]}
    assert "timestamp" not in value["metadata"]
    tools = {tool.name: tool.version for tool in bom.metadata.tools.components}
    assert tools == made.record["tools"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("main.py", "def f(:\n", "main.py: "),
        ("parts/leaf.py", "def f(:\n", "line 1"),
        ("keyferry_core/extra.py", "", "this name is Keyferry's own"),
        ("boot.py", "", "this name is Keyferry's own"),
    ],
)
def test_an_application_that_cannot_be_is_refused(
    application: Path, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (application / name).parent.mkdir(exist_ok=True)
    (application / name).write_text(text)
    line = ("firmware", "build", "--board", "virtual", "--app", application, "-o", tmp_path / "o")
    assert said in command(tmp_path, *line, code=1).stderr.replace("\n", " ")
    assert not (tmp_path / "o").exists()


def test_no_main_a_link_and_no_folder_are_refused(application: Path, tmp_path: Path) -> None:
    with pytest.raises(FirmwareProblem, match="neither a folder"):
        build.build(boards.load("virtual"), tmp_path / "nowhere")
    (application / "linked.py").symlink_to("/etc/hostname")
    with pytest.raises(FirmwareProblem, match="is a link"):
        build.build(boards.load("virtual"), application)
    (application / "linked.py").unlink()
    (application / "main.py").unlink()
    with pytest.raises(FirmwareProblem, match=r"has no main\.py"):
        build.build(boards.load("virtual"), application)


def test_a_full_flash_is_refused_and_nothing_is_written(application: Path, tmp_path: Path) -> None:
    (application / "film").write_bytes(os.urandom(400_000))
    line = ("firmware", "build", "--board", "pico-w", "--app", application)
    said = command(tmp_path, *line, "-o", tmp_path / "out", code=1).stderr
    assert "pico-w has 311296 bytes for the application" in said
    assert "film (400000)" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_not_overwritten(
    application: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    line = ("firmware", "build", "--board", "virtual", "--app", application)
    assert "not overwritten" in command(tmp_path, *line, "-o", tmp_path / "out", code=1).stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.fixture(scope="module", params=release.KINDS)
def signed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("signed")
    (place / "main.py").write_text("print('hello')\n")
    command(place, "firmware", "key", "new", place / "key", "--kind", request.param)
    line = ("firmware", "build", "--board", "virtual", "--app", place / "main.py", "--no-preflight")
    command(place, *line, "--key", place / "key", "-o", place / "out")
    return place


def test_keys_are_private_and_named(signed: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE((signed / "key").stat().st_mode) == 0o600
    assert "PRIVATE" not in (signed / "key.pub").read_text()
    assert (
        "not overwritten"
        in command(signed, "firmware", "key", "new", signed / "key", code=1).stderr
    )
    loose = tmp_path / "loose"
    shutil.copy(signed / "key", loose)
    loose.chmod(0o640)
    with pytest.raises(FirmwareProblem, match="chmod 600"):
        release.private_key(loose)


def _coordinates(key: Any) -> tuple[int, int]:
    numbers = key.public_numbers()
    return numbers.x, numbers.y


def test_the_signature_is_a_cose_sign1_that_others_can_read(signed: Path) -> None:
    import cbor2
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from pycose.keys import EC2Key, OKPKey
    from pycose.messages import Sign1Message

    key: Any = load_pem_public_key((signed / "key.pub").read_bytes())
    tagged: Any = cbor2.loads((signed / "out" / "build.cose").read_bytes())
    assert tagged.tag == 18
    message: Any = Sign1Message.from_cose_obj([tagged.value[0], {}, *tagged.value[2:]], True)
    message.external_aad = b"keyferry firmware build 1"
    if hasattr(key, "public_numbers"):
        x, y = (number.to_bytes(32, "big") for number in _coordinates(key))
        message.key = EC2Key(crv="P_256", x=x, y=y)
    else:
        message.key = OKPKey(crv="ED25519", x=key.public_bytes_raw())
    assert message.verify_signature()
    assert message.payload == (signed / "out" / "build.json").read_bytes()


def test_what_was_signed_verifies(signed: Path) -> None:
    line = ("firmware", "verify", signed / "out", "--key", signed / "key.pub")
    found = answer(signed, *line)
    assert found["verified"] is True
    assert found["board"] == "virtual"
    file = ("firmware", "verify", signed / "out" / "build.cose", "--key", signed / "key.pub")
    assert answer(signed, *file) == found


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda out: _flip(out / "rom.img"), "rom.img is changed"),
        (lambda out: os.truncate(out / "rom.img", 1000), "rom.img is cut short (1000 of "),
        (lambda out: (out / "littlefs.img").unlink(), "littlefs.img is missing"),
        (lambda out: (out / "more.bin").write_bytes(b"x"), "more.bin is not in the record"),
        (lambda out: _flip(out / "build.json"), "build.json is missing or is not what was signed"),
        (lambda out: (out / "build.cose").unlink(), "the build is not signed, or not whole"),
        (lambda out: os.truncate(out / "build.cose", 500), "is cut short; fetch it again"),
        (lambda out: _flip(out / "build.cose"), "the signature is wrong; do not flash it"),
        (lambda out: (out / "build.cose").write_bytes(b""), "is no signature of a build"),
    ],
)
def test_what_is_not_as_signed_is_refused(
    signed: Path, tmp_path: Path, change: Any, said: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(signed / "out", out)
    change(out)
    line = ("firmware", "verify", out, "--key", signed / "key.pub")
    assert said in command(tmp_path, *line, code=1).stderr


@pytest.mark.parametrize("kind", release.KINDS)
def test_an_unknown_key_is_refused(signed: Path, tmp_path: Path, kind: str) -> None:
    command(tmp_path, "firmware", "key", "new", tmp_path / "other", "--kind", kind)
    line = ("firmware", "verify", signed / "out", "--key")
    assert "which is not yours" in command(tmp_path, *line, tmp_path / "other.pub", code=1).stderr
    # and one that claims the name of ours, but signed with its own
    known, other = release.public_key(signed / "key.pub"), release.private_key(tmp_path / "other")
    built = (signed / "out" / "build.json").read_bytes()
    forged = release.sign(other, built)
    own = bytes.fromhex(release.name_of(release.public_key(tmp_path / "other.pub")))
    forged = forged.replace(own, bytes.fromhex(release.name_of(known)))
    with pytest.raises(FirmwareProblem, match="the signature is wrong"):
        release.open_signed(forged, known)


def test_keys_of_other_kinds_are_no_release_keys(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    for key in (ec.generate_private_key(ec.SECP384R1()), ed448.Ed448PrivateKey.generate()):
        place = tmp_path / "key"
        place.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        place.chmod(0o600)
        with pytest.raises(FirmwareProblem, match="no release key"):
            release.private_key(place)
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        place.write_bytes(pem)
        with pytest.raises(FirmwareProblem, match="no public release key"):
            release.public_key(place)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"format": 1, "files": [{"path": "../x", "size": 1, "sha256": ""}]}',
        b'{"format": 1, "files": [7], "board": {"name": "x"}, "entry": "", "modules": []}',
        b"\xff",
    ],
)
def test_a_record_from_elsewhere_is_checked(text: bytes) -> None:
    with pytest.raises(FirmwareProblem, match=r"build it again|another version"):
        record.decode(text)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "a/../b", ".x", "a/.b", "a\n"])
def test_a_record_names_no_file_outside(name: str) -> None:
    made = {"path": name, "size": 1, "sha256": "00"}
    value = {
        "format": 1,
        "board": {"name": "virtual"},
        "entry": "",
        "modules": [],
        "files": [made],
    }
    with pytest.raises(FirmwareProblem, match="no record of a build"):
        record.decode(json.dumps(value).encode())
