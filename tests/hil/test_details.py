"""Numbers in place of errors' details: what is changed, what stays, and the way back."""

import ast
import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from keyferry_firmware import details, sources
from keyferry_hil.virtual_device import Application, VirtualDevice

CORE = b"class KeyferryError(Exception):\n    pass\nclass Own(KeyferryError):\n    pass\n"


def shortened(text: str) -> str:
    texts = {"a.py": CORE, "b.py": text.encode()}
    return details.shorten(texts)["b.py"].decode()


def test_sentences_of_errors_become_numbers() -> None:
    found = shortened("raise Own('it is broken', 'too-large')\nraise m.Own('x', 'not so')\n")
    broken, so = details.number("it is broken"), details.number("not so")
    assert found == f"raise Own({broken}, 'too-large')\nraise m.Own('x', {so})"


@pytest.mark.parametrize(
    "text",
    [
        "raise Own('internal')",
        "raise Own('malformed', 'the key ' + key)",
        "raise ValueError('not one of ours')",
        "event('told', detail='as it is')",
        "raise Own(f'a {b} c')",
    ],
)
def test_all_else_stays(text: str) -> None:
    assert shortened(text) == ast.unparse(ast.parse(text))


def test_every_sentence_has_a_number_of_its_own() -> None:
    known = details.table(path.read_bytes() for path in sources.modules().values())
    assert len(known) > 200
    assert all(0 <= number < 1 << 24 for number in known)
    text = "raise Own('first one')\nraise Own('second one')\n"
    two = details.table([CORE, text.encode()])
    assert sorted(two.values()) == ["first one", "second one"]


def test_two_sentences_with_one_number_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "number", lambda sentence: 7)
    text = "raise Own('first one')\nraise Own('second one')\n"
    with pytest.raises(ValueError, match="second one"):
        details.table([CORE, text.encode()])


def test_a_log_is_explained(tmp_path: Path) -> None:
    sentence = "cbor: more bytes after the item"
    known = {details.number(sentence): sentence}
    mark = f"#{details.number(sentence):06x}"
    assert (
        details.explain(f"a {mark}: #000000 #xyz", known) == f"a {mark} ({sentence}): #000000 #xyz"
    )
    real = details.table(path.read_bytes() for path in sources.modules().values())
    number, sentence = next(iter(real.items()))
    log = tmp_path / "log"
    log.write_text(f"#{number:06x}\n")
    command = [sys.executable, "-m", "keyferry_firmware.details"]
    expected = f"#{number:06x} ({sentence})\n"
    from_file = subprocess.run([*command, str(log)], capture_output=True, text=True, check=True)
    assert from_file.stdout == expected
    from_input = subprocess.run(
        command, input=log.read_text(), capture_output=True, text=True, check=True
    )
    assert from_input.stdout == expected


def test_what_a_device_says_can_be_explained(tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    main.write_text(
        "from keyferry_core import cbor\n"
        "from keyferry_core.errors import DecodeError\n"
        "import json\n"
        "try:\n"
        "    cbor.decode(b'\\x00\\x00')\n"
        "except DecodeError as error:\n"
        "    print(json.dumps({'event': 'refused', 'detail': error.detail, 'all': str(error)}))\n"
    )

    async def run() -> dict[str, str]:
        application = await asyncio.to_thread(Application.build, main, tmp_path)
        device = VirtualDevice("pump-7", tmp_path / "flash", application)
        device.format({})
        async with device:
            return await device.wait_for("refused")

    event = asyncio.run(run())
    known = details.table(path.read_bytes() for path in sources.modules().values())
    assert event["detail"].startswith("#")
    assert event["all"] == "malformed: " + event["detail"]
    assert "cbor: " in details.explain(event["detail"], known)
