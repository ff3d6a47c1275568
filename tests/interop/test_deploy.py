"""What is shipped for running a manager: the unit as systemd reads it, and the image's parts."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "manager" / "deploy" / "keyferry.service"
CONTAINERFILE = ROOT / "manager" / "deploy" / "Containerfile"


def locked(name: str) -> dict[str, str]:
    """The packages of a lock, with their versions."""
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"(?m)^([a-z0-9_.-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)", text))


@pytest.mark.needs("systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path):
    # The program is looked for where the unit says; here it is another one.
    text = UNIT.read_text().replace("/opt/keyferry/bin/keyferry", "/bin/true")
    unit = tmp_path / UNIT.name
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, said) == (0, []), done.stderr


@pytest.mark.needs("systemd-analyze")
def test_systemd_thinks_well_of_it(tmp_path: Path):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("systemd-analyze")
def test_a_wrong_unit_would_be_found(tmp_path: Path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("ProtectSystem=strict", "ProtectSystem=much"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "protect system" in done.stderr.lower()


def test_the_image_has_what_was_tested():
    manager, everything = locked("manager.txt"), locked("dev.txt")
    assert {"fastapi", "sqlalchemy", "prometheus-client", "cryptography"} <= manager.keys()
    assert {name: everything.get(name) for name in manager} == manager
    assert "pytest" not in manager


def test_what_the_image_copies_is_there_and_not_kept_out():
    text = CONTAINERFILE.read_text()
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = [
        source
        for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", text)
        for source in line.split()[:-1]
    ]
    assert len(copied) >= 9
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in allowed, source
    assert re.search(r"(?m)^USER keyferry$", text)
    assert "/healthz" in text
