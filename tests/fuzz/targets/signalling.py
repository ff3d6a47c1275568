"""Signalling: the core's codec and the manager's read the same messages, in both directions."""

from fuzz.kit import attempt
from keyferry_core import cbor, signalling
from keyferry_core._compat import CPYTHON

second_opinion = None
if CPYTHON:
    from fuzz import second_opinion


def _read(data: bytes, from_device: bool) -> dict:
    return signalling.check(cbor.decode(data), from_device)


def decode(data: bytes) -> tuple:
    return attempt(_read, data, True)


def one_input(data: bytes) -> None:
    for from_device in (True, False):
        good, message = attempt(_read, data, from_device)
        if from_device and second_opinion:
            second_opinion.signalling(data, good, message)
        if not good:
            continue
        assert cbor.encode(message) == data
        assert signalling.type_name(message)
        for leg in message.get(signalling.ROUTE, []):
            assert len(leg) == (3 if from_device else 4)
        if from_device:  # nothing that the manager alone vouches for
            for key in (signalling.CREDENTIAL, signalling.SEEN, signalling.ONLINE):
                assert key not in message
            if signalling.PUBLIC_KEY in message:
                assert message[signalling.TYPE] == signalling.REGISTER


def seeds() -> list:
    from support.portable import vectors

    cases = vectors("signalling")
    found = [bytes.fromhex(cases[part][name]) for part in ("up", "down") for name in cases[part]]
    for part in cases:
        if part.startswith("bad"):
            found += [bytes.fromhex(case[0]) for case in cases[part].values()]
    return [data for data in found if len(data) <= 1024]
