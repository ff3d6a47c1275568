"""EDHOC with an implementation that is not ours: lakers, in both roles (method 3, suite 2)."""

import os

import lakers
import pytest

from keyferry_core import suite
from keyferry_core.edhoc.credentials import Credential, by_kid, ccs
from keyferry_core.edhoc.initiator import Initiator
from keyferry_core.edhoc.messages import EdhocError
from keyferry_core.edhoc.responder import Responder

crypto = suite.Crypto(os.urandom)
REFERENCE, VALUE = lakers.CredentialTransfer.ByReference, lakers.CredentialTransfer.ByValue
EAD = [(100, b"\x01\x02")]


class Party:
    """A key, its CCS, and the credential as each implementation wants it."""

    def __init__(self, subject: str, kid: bytes) -> None:
        self.private, public = crypto.generate()
        self.claims = ccs(subject, kid, public)
        self.ours = by_kid(self.claims, kid, public)
        self.theirs = lakers.Credential(self.claims)

    def by_value(self) -> Credential:
        # ID_CRED with a kccs (COSE header 14, RFC 9528 section 10.6) is the whole CCS
        return Credential(b"\xa1\x0e" + self.claims, self.claims, self.ours.public)


@pytest.fixture
def parties() -> tuple[Party, Party]:
    return Party("panel-1", b"\x2b"), Party("pump-7", b"\x32")


def _compare(ours: Initiator | Responder, theirs: object) -> None:
    """Same exporter output, before and after two key updates."""
    for context in (b"", b"first", b"second"):
        if context:
            ours.key_update(context)
            theirs.edhoc_key_update(context)
        for label, length in ((0, 16), (1, 8), (7, 32)):
            exported = bytes(theirs.edhoc_exporter(label, b"context", length))
            assert ours.exporter(label, b"context", length) == exported


@pytest.mark.parametrize("transfer", [REFERENCE, VALUE])
def test_our_initiator(parties: tuple[Party, Party], transfer: object) -> None:
    a, b = parties
    ours = Initiator(crypto, a.ours, a.private, 3, (2,), b"\x05")
    theirs = lakers.EdhocResponder(b.private, b.theirs)
    c_i, ead_1 = theirs.process_message_1(ours.message_1(EAD))
    assert bytes(c_i) == b"\x05"
    assert [(item.label(), bytes(item.value())) for item in ead_1] == EAD
    message_2 = theirs.prepare_message_2(transfer, b"\x07", None)
    id_cred_r, ead_2 = ours.read_message_2(message_2)
    expected = b.ours if transfer == REFERENCE else b.by_value()
    assert id_cred_r == expected.id_cred
    assert ours.c_r == b"\x07"
    assert ead_2 == []
    ours.verify_message_2(expected)
    message_3 = ours.message_3(EAD)
    id_cred_i, _ = theirs.parse_message_3(message_3)
    valid = lakers.credential_check_or_fetch(id_cred_i, a.theirs)
    theirs.verify_message_3(valid)
    assert ours.read_message_4(theirs.prepare_message_4()) == []
    _compare(ours, theirs)


@pytest.mark.parametrize("transfer", [REFERENCE, VALUE])
def test_our_responder(parties: tuple[Party, Party], transfer: object) -> None:
    a, b = parties
    theirs = lakers.EdhocInitiator()
    ours = Responder(crypto, b.ours, b.private, (3,), (2,))
    assert ours.read_message_1(theirs.prepare_message_1(b"\x05")) == []
    message_2 = ours.message_2(b"\x07", EAD)
    c_r, id_cred_r, _ = theirs.parse_message_2(message_2)
    assert bytes(c_r) == b"\x07"
    valid = lakers.credential_check_or_fetch(id_cred_r, b.theirs)
    theirs.verify_message_2(a.private, a.theirs, valid)
    message_3, secret = theirs.prepare_message_3(transfer, None)
    id_cred_i, ead_3 = ours.read_message_3(message_3)
    expected = a.ours if transfer == REFERENCE else a.by_value()
    assert id_cred_i == expected.id_cred
    assert ead_3 == []
    ours.verify_message_3(expected)
    assert ours.prk_out == bytes(secret)
    theirs.process_message_4(ours.message_4(EAD))
    _compare(ours, theirs)


def test_a_responder_with_another_key_is_refused(parties: tuple[Party, Party]) -> None:
    a, b = parties
    ours = Initiator(crypto, a.ours, a.private, 3, (2,))
    theirs = lakers.EdhocResponder(Party("pump-7", b"\x32").private, b.theirs)
    theirs.process_message_1(ours.message_1())
    ours.read_message_2(theirs.prepare_message_2(REFERENCE, b"\x07", None))
    with pytest.raises(EdhocError, match="does not verify"):
        ours.verify_message_2(b.ours)


def test_a_suite_that_they_lack_is_refused(parties: tuple[Party, Party]) -> None:
    a, b = parties
    ours = Initiator(crypto, a.ours, a.private, 3, (3,))
    theirs = lakers.EdhocResponder(b.private, b.theirs)
    with pytest.raises(Exception, match="Suite"):
        theirs.process_message_1(ours.message_1())
