"""The messages of EDHOC: what is accepted is what would be sent.

Input: a choice, then bytes.
"""

from fuzz.kit import attempt
from keyferry_core import cbor
from keyferry_core.edhoc import messages, x5chain
from keyferry_core.edhoc.initiator import suites_after


def _message_1(data: bytes) -> tuple:
    good, found = attempt(messages.decode_message_1, data)
    if good:
        method, suites, g_x, c_i, ead_1 = found
        assert messages.encode_message_1(method, tuple(suites), g_x, c_i, ead_1) == data
        assert 1 <= len(suites) <= messages.MAX_SUITES
        assert len(c_i) <= messages.MAX_IDENTIFIER
    return good, found


def _ead(data: bytes) -> tuple:
    good, items = attempt(messages.decode_ead, data, (100,))
    if good:
        assert len(items) <= messages.MAX_EAD
        for label, value in items:
            assert label > 0 or label == -100
            assert value is None or isinstance(value, bytes)
        # all that was left out is padding
        padded, values = attempt(cbor.decode_sequence, data)
        assert padded
        if 0 not in values:
            assert messages.encode_ead(items) == data
    return good, items


def _plaintext(data: bytes) -> list:
    results = []
    for length in (8, 16, 64):
        good, found = attempt(messages.decode_plaintext, data, 0, length)
        results.append((good, found))
        if good:
            id_cred, authenticator, ead = found
            assert isinstance(cbor.decode(id_cred), dict)
            assert len(authenticator) == length
            sent = messages.encode_id_cred(id_cred) + cbor.encode(authenticator) + ead
            assert sent == data
            if id_cred[:3] == x5chain.START:
                results.append(_chain(id_cred))
    return results


def _chain(id_cred: bytes) -> tuple:
    good, chain = attempt(x5chain.certificates, id_cred)
    if good:
        assert 1 <= len(chain) <= x5chain.MAX_CHAIN
        assert x5chain.by_x5chain(chain, b"").id_cred == id_cred
    return good, chain


def _error(data: bytes) -> tuple:
    good, found = attempt(messages.parse_error, data)
    if good:
        assert cbor.encode(found[0]) + cbor.encode(found[1]) == data
        chosen, suites = attempt(suites_after, found, (3, 2))
        if chosen:
            assert suites in ((3,), (3, 2))
    return good, found


def _identifier(data: bytes) -> tuple:
    good, found = attempt(messages.decode_identifier, data, 0)
    if good:
        identifier, end = found
        assert len(identifier) <= messages.MAX_IDENTIFIER
        assert messages.encode_identifier(identifier) == data[:end]
    return good, found


def _bstr(data: bytes) -> tuple:
    good, value = attempt(messages.decode_bstr, data, 8, "message_4")
    if good:
        assert cbor.encode(value) == data
        assert 8 <= len(value) <= messages.MAX_MESSAGE
    return good, value


_KINDS = (_message_1, _ead, _plaintext, _error, _identifier, _bstr)


def decode(data: bytes) -> object:
    return _KINDS[(data[0] if data else 0) % 6](data[1:])


def one_input(data: bytes) -> None:
    decode(data)


def seeds() -> list:
    from support.portable import vectors

    found = []
    for trace in vectors("edhoc_p256_interop_x509")["traces"]:
        found.append(b"\x00" + bytes.fromhex(trace["message_1"]))
        found += [b"\x05" + bytes.fromhex(trace["message_" + n]) for n in "234"]
        found += [b"\x01" + bytes.fromhex(text) for text in trace["ead"].values() if text]
    for case in vectors("edhoc_rfc9529")["invalid"]:
        data = bytes.fromhex(case["hex"])
        found += [bytes((kind,)) + data for kind in (0, 2, 5)]
    id_cred = bytes.fromhex("a11822822e48d53a7d0847c967d7")
    for length in (8, 16, 64):
        for start in (
            id_cred,
            b"\x20",
            b"\x42ab",
            b"\xa2\x04\x01\x05\x02",
            b"\xa1\x04\x42ab",
            b"\xa0",
            b"\xa1\x18\x21\x43abc",
            b"\xa1\x18\x21\x82\x43abc\x42de",
            b"\xa1\x18\x21\x81\x43abc",
        ):
            found.append(b"\x02" + start + cbor.encode(bytes(length)) + b"\x18\x64\x41\x00")
    found += [b"\x03\x01ferror", b"\x03\x02\x03", b"\x03\x02\x82\x02\x03", b"\x03\x03\xf5"]
    found += [
        b"\x04\x2a",
        b"\x04\x42ab",
        b"\x04\x41\x00",
        b"\x01\x00\x42ab\x18\x64",
        b"\x01\x38\x63",
    ]
    return found
