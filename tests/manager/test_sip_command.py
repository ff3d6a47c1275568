"""``keyferry sip check``: one verdict a message, and the exit code."""

import json
from pathlib import Path

import pytest

from support.command import answer, command

VECTORS = Path(__file__).parent.parent / "vectors" / "rfc4475"
GOOD = (
    b"OPTIONS sip:plant.example SIP/2.0\r\nVia: SIP/2.0/TLS h.example;branch=z9hG4bKa\r\n"
    b"From: <sip:a@plant.example>;tag=1\r\nTo: <sip:plant.example>\r\nCall-ID: 1\r\n"
    b"CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)
SPOOF = GOOD.replace(
    b"<sip:a@plant.example>;tag=1",
    b'"x" <sip:alice@plant.example>;p="y" <sip:mallory@plant.example>',
)


def test_the_torture_set_has_a_verdict_each(tmp_path: Path) -> None:
    expected = json.loads((VECTORS / "expected.json").read_text())
    files = [VECTORS / f"{name}.dat" for name in expected]
    result = command(tmp_path, "sip", "check", *files, "--json", code=1)
    verdicts = json.loads(result.stdout)
    assert {Path(item["file"]).stem: item["status"] or 0 for item in verdicts} == {
        name: row[0] for name, row in expected.items()
    }
    refused = [item for item in verdicts if item["outcome"] == "refused"]
    assert all(item["reason"] and item["phrase"] for item in refused)
    good = [VECTORS / f"{name}.dat" for name, row in expected.items() if not row[0]]
    lines = command(tmp_path, "sip", "check", *good).stdout.splitlines()
    assert lines == [f"{path}: accepted" for path in good]


def test_a_line_names_status_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "spoof"
    path.write_bytes(SPOOF)
    text = command(tmp_path, "sip", "check", path, code=1).stdout
    assert text == f"{path}: 400 Bad Request (from: something behind a quoted string)\n"
    text = command(tmp_path, "sip", "check", VECTORS / "scalarlg.dat", code=1).stdout
    assert "a response: dropped" in text


def test_several_messages_of_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(GOOD + b"\r\n\r\n" + SPOOF + GOOD)
    result = command(tmp_path, "sip", "check", "--stream", path, code=1)
    assert [line.split(": ")[1][:8] for line in result.stdout.splitlines()] == [
        "accepted",
        "400 Bad ",
        "accepted",
    ]
    # alone it is a datagram, and the rest is dropped
    assert answer(tmp_path, "sip", "check", path)[0]["outcome"] == "accepted"
    path.write_bytes(GOOD + GOOD.replace(b"Content-Length: 0\r\n", b"") + GOOD)
    verdicts = json.loads(
        command(tmp_path, "sip", "check", "--stream", path, "--json", code=1).stdout
    )
    assert [item["status"] for item in verdicts] == [None, 400]
    assert verdicts[1]["method"] == "OPTIONS"
    for cut in (GOOD[:-3], b"", b"\r"):
        path.write_bytes(cut)
        verdicts = json.loads(
            command(tmp_path, "sip", "check", "--stream", path, "--json", code=1).stdout
        )
        assert [item["reason"] for item in verdicts] == ["the stream ends inside a message"]


def test_standard_input_and_files_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from keyferry_manager.cli import app

    result = CliRunner().invoke(app, ["sip", "check", "-"], input=GOOD)
    assert (result.exit_code, result.stdout) == (0, "-: accepted\n")
    result = command(tmp_path, "sip", "check", tmp_path / "none", code=2)
    assert "No such file" in result.stderr


def test_what_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 32)
    assert "513 Message Too Large" in command(tmp_path, "sip", "check", path, code=1).stdout
    assert "513 Message" in command(tmp_path, "sip", "check", "--stream", path, code=1).stdout
