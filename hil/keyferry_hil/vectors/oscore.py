"""RFC 8613, appendix C: OSCORE's key derivation, nonces and AEAD, of which records are made."""

from keyferry_hil.vectors.fields import Node
from keyferry_hil.vectors.model import Check, NotOffered, Question, VectorFile, part

_DERIVED = (
    *("info_for_sender_key", "info_for_recipient_key", "info_for_common_iv"),
    *("sender_key", "recipient_key", "common_iv", "sender_nonce", "recipient_nonce"),
)
_PROTECTED = ("kid", "encryption_key", "nonce", "aad", "plaintext", "ciphertext")
# What CoAP makes of it: Keyferry's records have a frame of their own.
_COAP = (
    "oscore_option_value",
    "protected_coap_request_oscore_message",
    "protected_coap_response_oscore_message",
)


def knows(document: Node) -> bool:
    vectors = document.value.get("vectors")
    return isinstance(vectors, dict) and any(
        isinstance(case, dict) and {"master_secret", "aad_array"} & set(case)
        for case in vectors.values()
    )


def parse(document: Node, name: str) -> VectorFile:
    found = VectorFile(name, "OSCORE (RFC 8613, appendix C)")
    framing = 0
    for title, case in document.node("vectors").children():
        if case.has("master_secret"):
            found.questions.append(_context(title, case))
        elif case.has("aad_array"):
            found.questions.append(_message(title, case))
            framing += sum(case.has(key) for key in _COAP)
        else:
            raise case.error("neither 'master_secret' nor 'aad_array'")
    if framing:
        reason = "CoAP options and messages: records have a frame of their own"
        found.not_offered.append(NotOffered("OSCORE message", framing, reason))
    return found


def _checks(title: str, case: Node, names: tuple[str, ...]) -> list[Check]:
    comment = case.text("title", "")
    checks = [
        Check(f"{title} {key}", part(key, case.hex(key)), comment)
        for key in names
        if key in case.value
    ]
    if not checks:
        raise case.error("no value to check")
    return checks


def _bounded(case: Node, key: str, smallest: int, largest: int) -> bytes:
    value = case.hex(key)
    if not smallest <= len(value) <= largest:
        raise case.error(f"{key!r} has {len(value)} bytes, not {smallest} to {largest}")
    return value


def _context(title: str, case: Node) -> Question:
    arguments = [
        case.hex("master_secret"),
        case.hex("master_salt", b""),
        case.hex("id_context") if case.has("id_context") else None,
        _bounded(case, "sender_id", 0, 7),
        _bounded(case, "recipient_id", 0, 7),
    ]
    return Question("OSCORE keys", "oscore_context", arguments, _checks(title, case, _DERIVED))


def _message(title: str, case: Node) -> Question:
    aad_array = case.hex("aad_array")
    if case.has("partial_iv"):
        identifier, number = _bounded(case, "sender_id", 0, 7), _bounded(case, "partial_iv", 1, 5)
    else:
        # A response without a Partial IV has the nonce of its request (section 5.2).
        identifier, number = _request(case, aad_array)
    key = "sender_key" if case.has("sender_key") else "encryption_key"
    arguments = [
        _bounded(case, key, 16, 16),
        _bounded(case, "common_iv", 13, 13),
        identifier,
        int.from_bytes(number, "big"),
        aad_array,
        case.hex("plaintext"),
    ]
    return Question("OSCORE message", "oscore_message", arguments, _checks(title, case, _PROTECTED))


def _request(case: Node, aad_array: bytes) -> tuple[bytes, bytes]:
    """request_kid and request_piv of the aad_array (section 5.4)."""
    from keyferry_core import cbor
    from keyferry_core.errors import DecodeError

    try:
        items = cbor.decode(aad_array)
    except DecodeError:
        items = None
    if isinstance(items, list) and len(items) == 5:
        kid, piv = items[2], items[3]
        if isinstance(kid, bytes) and isinstance(piv, bytes) and len(kid) <= 7 and len(piv) <= 5:
            return kid, piv
    raise case.error("'aad_array' is not [version, algorithms, request_kid, request_piv, options]")
