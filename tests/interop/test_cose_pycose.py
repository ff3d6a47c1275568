"""COSE messages against ``pycose``: each side reads what the other wrote, and refuses the rest."""

import os
from collections.abc import Mapping
from typing import Any

import cbor2
import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st
from pycose.algorithms import AESCCM1664128, AESCCM16128128, Es256
from pycose.exceptions import CoseException
from pycose.headers import IV, KID, Algorithm
from pycose.keys import CoseKey, EC2Key, SymmetricKey
from pycose.keys.curves import P256
from pycose.messages import Enc0Message, Sign1Message

from keyferry_core import records, rpk, suite
from keyferry_core.cbor import encode
from keyferry_core.cose_message import decrypt0, encrypt0, sign1, verify1
from keyferry_core.errors import AuthenticationError, DecodeError
from keyferry_core.iana import AES_CCM_16_64_128, AES_CCM_16_128_128

CRYPTO = suite.Crypto(os.urandom)
PRIVATE, PUBLIC = CRYPTO.generate()
KINDS: dict[int, Any] = {16: Enc0Message, 18: Sign1Message}
AEADS = {AES_CCM_16_64_128: AESCCM1664128, AES_CCM_16_128_128: AESCCM16128128}
DATA = st.binary(max_size=300)


def ec_key(public: bytes, private: bytes = b"") -> EC2Key:
    return EC2Key(crv=P256, x=public[1:33], y=public[33:], d=private)


def taken(message: bytes, key: CoseKey, external_aad: bytes) -> Any:
    """A message as ``pycose`` reads it, with what checking it needs. TypeError for no message."""
    tagged = cbor2.loads(message)
    if not isinstance(tagged, cbor2.CBORTag) or tagged.tag not in KINDS:
        raise TypeError("not tagged as a message")
    # CoseMessage.decode asks for a list, and cbor2 6 has tuples and frozen maps inside a tag
    protected, unprotected, *rest = tagged.value
    if not isinstance(unprotected, Mapping):
        raise TypeError("the unprotected header is a map")
    found = KINDS[tagged.tag].from_cose_obj([protected, dict(unprotected), *rest], True)
    found.key = key
    found.external_aad = external_aad
    return found


def flipped(message: bytes, bit: int) -> bytes:
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# -- COSE_Sign1 ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(DATA, DATA, st.one_of(st.none(), st.binary(max_size=12)))
def test_pycose_verifies_what_the_core_signed(payload, external_aad, kid):
    message = sign1(CRYPTO, PRIVATE, payload, external_aad, None if kid is None else {4: kid})
    found = taken(message, ec_key(PUBLIC), external_aad)
    assert isinstance(found, Sign1Message)
    assert found.payload == payload
    assert found.get_attr(Algorithm) == Es256
    assert found.phdr.get(KID) == kid
    assert found.verify_signature()
    other = taken(message, ec_key(PUBLIC), external_aad + b"x")
    assert not other.verify_signature()
    stranger = taken(message, ec_key(CRYPTO.generate()[1]), external_aad)
    assert not stranger.verify_signature()


@settings(max_examples=40, deadline=None)
@given(DATA, DATA, st.booleans(), st.booleans())
def test_the_core_verifies_what_pycose_signed(payload, external_aad, tagged, protected):
    headers = {Algorithm: Es256}
    message = Sign1Message(
        phdr=headers if protected else {}, uhdr={} if protected else headers, payload=payload
    )
    message.key = ec_key(PUBLIC, PRIVATE)
    message.external_aad = external_aad
    encoded = message.encode(tag=tagged)
    found, header = verify1(CRYPTO, PUBLIC, encoded, external_aad)
    assert found == payload
    assert header == ({1: -7} if protected else {})
    with pytest.raises(AuthenticationError):
        verify1(CRYPTO, PUBLIC, encoded, external_aad + b"x")
    with pytest.raises(AuthenticationError):
        verify1(CRYPTO, CRYPTO.generate()[1], encoded, external_aad)


def verified_by_pycose(message: bytes) -> bool:
    try:
        found = taken(message, ec_key(PUBLIC), b"aad")
        return isinstance(found, Sign1Message) and found.verify_signature()
    except (CoseException, ValueError, TypeError, AttributeError, KeyError, cbor2.CBORError):
        return False  # its ways to say so are many


def test_a_changed_bit_of_a_signed_message_is_refused_by_both():
    message = sign1(CRYPTO, PRIVATE, b"payload of some bytes", b"aad")
    assert verified_by_pycose(message)
    assert verify1(CRYPTO, PUBLIC, message, b"aad")[0] == b"payload of some bytes"
    for bit in range(8 * len(message)):
        changed = flipped(message, bit)
        with pytest.raises((DecodeError, AuthenticationError)):
            verify1(CRYPTO, PUBLIC, changed, b"aad")
        assert not verified_by_pycose(changed), bit


def test_an_endorsed_agreement_key_is_a_sign1_over_a_claims_set():
    agreement = CRYPTO.generate()
    endorsed = rpk.endorse(CRYPTO, PRIVATE, "pump-7", agreement[1])
    found = taken(endorsed, ec_key(PUBLIC), b"keyferry rpk")
    assert isinstance(found, Sign1Message)
    assert found.verify_signature()
    claims = cbor2.loads(found.payload)
    assert claims[2] == "pump-7"
    key = CoseKey.from_dict(claims[8][1])
    assert isinstance(key, EC2Key)
    assert b"\x04" + key.x + key.y == agreement[1]
    assert key.kid == rpk.key_id(agreement[1])


# -- COSE_Encrypt0 ---------------------------------------------------------------------------


@pytest.mark.parametrize("alg", AEADS)
@settings(max_examples=40, deadline=None)
@given(plaintext=DATA, external_aad=DATA)
def test_pycose_decrypts_what_the_core_encrypted(alg, plaintext, external_aad):
    key, nonce = os.urandom(16), os.urandom(13)
    message = encrypt0(CRYPTO, alg, key, nonce, plaintext, external_aad)
    found = taken(message, SymmetricKey(k=key), external_aad)
    assert isinstance(found, Enc0Message)
    assert found.get_attr(Algorithm) == AEADS[alg]
    assert found.uhdr[IV] == nonce
    assert found.decrypt() == plaintext
    for wrong in (
        taken(message, SymmetricKey(k=os.urandom(16)), external_aad),
        taken(message, SymmetricKey(k=key), external_aad + b"x"),
    ):
        with pytest.raises(InvalidTag):
            wrong.decrypt()


@pytest.mark.parametrize("alg", AEADS)
@settings(max_examples=40, deadline=None)
@given(plaintext=DATA, external_aad=DATA, tagged=st.booleans(), protected=st.booleans())
def test_the_core_decrypts_what_pycose_encrypted(alg, plaintext, external_aad, tagged, protected):
    key, nonce = os.urandom(16), os.urandom(13)
    headers = {Algorithm: AEADS[alg], IV: nonce}
    message = Enc0Message(
        phdr=headers if protected else {Algorithm: AEADS[alg]},
        uhdr={} if protected else {IV: nonce},
        payload=plaintext,
    )
    message.key = SymmetricKey(k=key)
    message.external_aad = external_aad
    encoded = message.encode(tag=tagged)
    assert decrypt0(CRYPTO, key, encoded, external_aad) == plaintext
    with pytest.raises(AuthenticationError):
        decrypt0(CRYPTO, os.urandom(16), encoded, external_aad)
    with pytest.raises(AuthenticationError):
        decrypt0(CRYPTO, key, encoded, external_aad + b"x")


@pytest.mark.parametrize("alg", AEADS)
def test_one_key_nonce_and_plaintext_give_both_the_same_message(alg):
    key, nonce = os.urandom(16), os.urandom(13)
    message = Enc0Message(phdr={Algorithm: AEADS[alg]}, uhdr={IV: nonce}, payload=b"the same")
    message.key = SymmetricKey(k=key)
    message.external_aad = b"aad"
    assert encrypt0(CRYPTO, alg, key, nonce, b"the same", b"aad") == message.encode()


def test_a_changed_bit_of_an_encrypted_message_is_refused():
    key, nonce = bytes(16), bytes(13)
    message = encrypt0(CRYPTO, AES_CCM_16_128_128, key, nonce, b"plaintext", b"aad")
    for bit in range(8 * len(message)):
        with pytest.raises((DecodeError, AuthenticationError)):
            decrypt0(CRYPTO, key, flipped(message, bit), b"aad")


# -- records ---------------------------------------------------------------------------------


def test_a_record_is_a_cose_encrypt0_with_its_frame_as_external_data():
    # docs/keys.md: the protected header is empty, the algorithm and the nonce are agreed upon
    context, prk_out = os.urandom(32), os.urandom(32)
    box = records.Records(CRYPTO, prk_out, b"\x00", b"\x01", context)
    box.sent = 300
    record = box.protect(b"what a record holds")
    header, ciphertext = record[:3], record[3:]
    assert header == b"\x02\x01\x2c"
    message = [
        b"",
        {1: AES_CCM_16_128_128, 5: box._send.nonce(300)},
        ciphertext,
    ]
    external_aad = encode(context) + encode(header)
    found = taken(
        cbor2.dumps(cbor2.CBORTag(16, message)), SymmetricKey(k=box._send.key), external_aad
    )
    assert found.decrypt() == b"what a record holds"
