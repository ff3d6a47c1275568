"""The table of errors: whole, unique, and found by name and by code."""

from keyferry_core import errors
from support.portable import raises


def test_every_row_is_found_by_name_and_by_code():
    rows = errors.rows()
    assert len(rows) == 36
    for name, code, sip, http, text in rows:
        assert errors.code_of(name) == code
        assert errors.name_of(code) == name
        error = errors.KeyferryError(name)
        assert (error.code, error.sip_status, error.http_status) == (code, sip, http)
        assert error.text == text
        assert 1 <= code < 100
        assert 400 <= sip < 700
        assert 400 <= http < 600
        assert text
    assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == 36


def test_what_is_not_in_the_table():
    for name in ("", "mal", "alformed", "malformed #1", "the", "internal "):
        raises(KeyError, errors.code_of, name)
    for code in (0, 99, -1, 65535):
        assert errors.name_of(code) == "internal"


def test_the_detail_is_for_the_log_and_not_in_the_text():
    error = errors.DecodeError("secret detail")
    assert "secret" in str(error)
    assert "secret" not in error.text
    assert error.name == "malformed"
    assert isinstance(error, errors.RemoteError)
    assert raises(errors.StateError, _raise_state).name == "wrong-state"


def _raise_state():
    raise errors.StateError("x")
