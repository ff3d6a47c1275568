"""The demo's claims can fail: its search finds what is there, its verdict counts every check."""

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keyferry_manager.authority import LocalAuthority
from keyferry_manager.cli.demo.evidence import Haystack, Trace, private_key_of
from keyferry_manager.cli.demo.screen import Screen
from support.manager_kit import Home


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps({"seen": b"a secret word".hex(), "sent": ""}) + "\n")
    return Trace(path)


def test_what_the_manager_received_is_searched(trace: Trace) -> None:
    hay = Haystack(trace, [])
    assert hay.holds(b"secret")
    assert not hay.holds(b"another")
    assert hay.octets == len(b"a secret word")


def test_its_files_are_searched_as_bytes_and_as_hexadecimal(trace: Trace, tmp_path: Path) -> None:
    home = tmp_path / "home" / "deep"
    home.mkdir(parents=True)
    (home / "raw").write_bytes(b"\0\1key one\2")
    (home / "hex").write_bytes(b"..." + b"key two".hex().encode())
    hay = Haystack(trace, [tmp_path / "home"])
    assert hay.holds(b"key one")
    assert hay.holds(b"key two")
    assert not hay.holds(b"key three")


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace = Trace(path)
    trace.poll()
    assert trace.entries == []
    path.write_text('{"n": 1}\n{"n"')
    trace.poll()
    assert trace.entries == [{"n": 1}]
    with path.open("a") as file:
        file.write(": 2}\n")
    trace.poll()
    assert trace.entries == [{"n": 1}, {"n": 2}]


def certificate_for(folder: Path, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    authority: LocalAuthority = Home(folder).authority
    return authority.issue_factory("pump-7", key.public_key(), 1_800_000_000)


def test_a_private_key_is_found_in_a_flash_and_no_other_one(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    other = ec.generate_private_key(ec.SECP256R1())
    certificate = certificate_for(tmp_path / "home", key)
    raw = key.private_numbers().private_value.to_bytes(32, "big")
    wrong = other.private_numbers().private_value.to_bytes(32, "big")
    files = [b"nothing here", b"\x58\x20" + wrong, b"head\x58\x20" + raw + b"tail"]
    assert private_key_of(certificate.public_key(), files) == raw
    assert private_key_of(certificate.public_key(), files[:2]) is None


def test_one_failed_check_is_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    assert not screen.held, "no check at all is no success"
    screen.check("first", True)
    assert screen.held
    screen.check("second", False, "why")
    screen.check("third", True)
    assert not screen.held
    screen.end()
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["held"] is False
    assert last["failed"] == ["second"]
    assert last["checks"] == 3


def test_a_person_sees_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    with screen.phase("A phase"):
        screen.say("pump-7", "does \x1b[31m something")
        screen.check("it works", False, "why\nand where")
    screen.end()
    shown = capsys.readouterr().out
    assert "✗ it works  why\n" in shown
    assert "        and where\n" in shown
    assert "1 of 1 checks failed" in shown
    assert "\x1b[31m" not in shown, "a device's text must not reach the terminal as it is"
