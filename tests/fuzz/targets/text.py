"""UTF-8 and the names in it: valid means what CPython's decoder says; a name has one spelling."""

from fuzz.kit import attempt
from keyferry_core import names, utf8
from keyferry_core._compat import CPYTHON

second_opinion = None
if CPYTHON:
    from fuzz import second_opinion


def decode(data: bytes) -> tuple:
    return attempt(utf8.decode, data)


def one_input(data: bytes) -> None:
    good, text = attempt(utf8.decode, data)
    assert good == utf8.is_valid(data)
    if second_opinion:
        second_opinion.text(data, good, text)
    if not good:
        return
    assert text.encode() == data
    named, name = attempt(names.check_name, text)
    if named:
        assert name == text
        assert 1 <= len(data) <= names.MAX_NAME
        assert name != names.MANAGER
        for label in name.split("."):
            assert label
            assert label.strip("-") == label
        assert attempt(names.check_realm, text)[0]
    is_realm, realm = attempt(names.check_realm, text)
    if is_realm:
        assert realm == text == text.lower()
    split, parts = attempt(names.parse_identity, text)
    if split:
        assert names.identity(parts[0], parts[1]) == text


def seeds() -> list:
    texts = ["pump-7", "a.b-c.d", "sip:pump-7@plant.example", "manager", "sip:a@b@c", "-", "a..b"]
    found = [text.encode() for text in texts]
    found += [b"\xc3\xa9", b"\xed\x9f\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf", b"\xe0\xa0\x80"]
    return found + [b"\xed\xa0\x80", b"\xc0\xaf", b"\xf0\x80\x80\xaf", b"\xf4\x90\x80\x80"]
