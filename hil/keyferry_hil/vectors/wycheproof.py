"""Project Wycheproof's JSON, version 1: ECDH, ECDSA, AES-CCM, HKDF and HMAC."""

from collections import Counter
from collections.abc import Callable

from keyferry_hil.vectors.fields import Node
from keyferry_hil.vectors.model import (
    REFUSED,
    RIGHT,
    Answer,
    Check,
    Judge,
    NotOffered,
    Question,
    VectorFile,
    Verdict,
    exactly,
    exactly_or_refused,
    failed,
    refused,
)

_P256 = ("secp256r1", "P-256", "prime256v1")
_RESULTS = ("valid", "invalid", "acceptable")


class _Skip(Exception):
    """The core has nothing of this kind; the text is the reason."""


def knows(document: Node) -> bool:
    return "testGroups" in document.value


def parse(document: Node, name: str) -> VectorFile:
    algorithm = document.text("algorithm", "")
    found = VectorFile(name, f"Wycheproof {algorithm}".strip())
    skipped: Counter[tuple[str, str]] = Counter()
    schema = document.text("schema", "")
    for number, group in enumerate(document.nodes("testGroups"), 1):
        group_type = group.text("type", "") or _type_of_schema(schema)
        handler = _HANDLERS.get(group_type)
        for test in group.nodes("tests"):
            result = test.text("result")
            if result not in _RESULTS:
                raise test.error(f"'result' is {result!r}, not one of {', '.join(_RESULTS)}")
            kind = algorithm or group_type or "unnamed"
            try:
                if handler is None:
                    raise _Skip(f"groups of type {group_type or 'unknown'}: none in the core")
                asked = handler(algorithm, group, test, result)
            except _Skip as skip:
                skipped[kind, str(skip)] += 1
                continue
            label = test.value.get("tcId", "without number")
            case = f"group {number}, tcId {label}"
            comment = test.text("comment", "")
            found.questions.append(Question(*asked[:3], [Check(case, asked[3], comment)]))
    found.not_offered = [
        NotOffered(kind, count, reason) for (kind, reason), count in skipped.items()
    ]
    stated = document.value.get("numberOfTests")
    if isinstance(stated, int) and found.cases and stated != found.cases:
        found.notes.append(f"states {stated} tests and holds {found.cases}")
    return found


# Kind, operation, arguments, and the judge of the answer.
_Asked = tuple[str, str, list, Judge]


def _type_of_schema(schema: str) -> str:
    return {
        "ecdh_ecpoint_test_schema_v1.json": "EcdhEcpointTest",
        "ecdh_test_schema_v1.json": "EcdhTest",
        "ecdsa_verify_schema_v1.json": "EcdsaVerify",
        "ecdsa_p1363_verify_schema_v1.json": "EcdsaP1363Verify",
        "aead_test_schema_v1.json": "AeadTest",
        "hkdf_test_schema_v1.json": "HkdfTest",
        "mac_test_schema_v1.json": "MacTest",
    }.get(schema, "")


def _judge(result: str, expected: object) -> Judge:
    if result == "valid":
        return exactly(expected)
    return exactly_or_refused(expected) if result == "acceptable" else refused()


def _curve(name: str) -> None:
    if name not in _P256:
        raise _Skip(f"curve {name or 'unnamed'}: the core has P-256")


def _ecdh(operation: str, kind: str) -> Callable[[str, Node, Node, str], _Asked]:
    def ask(_algorithm: str, group: Node, test: Node, result: str) -> _Asked:
        _curve(group.text("curve"))
        expected = test.hex("shared") if result == "valid" else test.hex("shared", b"")
        arguments = [test.scalar("private"), test.hex("public")]
        return kind, operation, arguments, _judge(result, expected)

    return ask


def _ecdsa(operation: str, kind: str) -> Callable[[str, Node, Node, str], _Asked]:
    def ask(_algorithm: str, group: Node, test: Node, result: str) -> _Asked:
        key = group.node("publicKey" if group.has("publicKey") else "key")
        _curve(key.text("curve"))
        digest = group.text("sha")
        if digest != "SHA-256":
            raise _Skip(f"ECDSA with {digest}: the core has SHA-256")
        public = _public(key)
        arguments = [public, test.hex("msg"), test.hex("sig")]
        return kind, operation, arguments, _judge(result, True)

    return ask


def _public(key: Node) -> bytes:
    joined = b""
    if key.has("wx") or not key.has("uncompressed"):
        parts = [key.integer("wx"), key.integer("wy")]
        if max(parts) >> 256:
            raise key.error("a coordinate of more than 256 bits")
        joined = b"\x04" + b"".join(value.to_bytes(32, "big") for value in parts)
    if not key.has("uncompressed"):
        return joined
    if joined and key.hex("uncompressed") != joined:
        raise key.error("'uncompressed' is another point than 'wx' and 'wy'")
    return key.hex("uncompressed")


def _aead(algorithm: str, group: Node, test: Node, result: str) -> _Asked:
    if algorithm != "AES-CCM":
        raise _Skip(f"{algorithm or 'an unnamed AEAD'}: the core has AES-CCM with 128-bit keys")
    key, nonce, aad = test.hex("key"), test.hex("iv"), test.hex("aad", b"")
    message, ciphertext, tag = test.hex("msg"), test.hex("ct"), test.hex("tag")
    bits = group.number("keySize", 8 * len(key))
    if bits != 128 or len(key) != 16:
        raise _Skip(f"keys of {8 * len(key)} bits: the core has AES-CCM with 128-bit keys")
    tag_bits = group.number("tagSize", 8 * len(tag))
    if tag_bits % 8 or not 0 <= tag_bits <= 256:
        raise group.error("'tagSize' is not a number of whole bytes up to 32")
    if result == "valid" and not 7 <= len(nonce) <= 13:
        raise _Skip(f"nonce of {len(nonce)} bytes: AES-CCM has 7 to 13 (RFC 3610)")
    if result == "valid" and tag_bits not in (32, 48, 64, 80, 96, 112, 128):
        raise _Skip(f"tag of {tag_bits // 8} bytes: AES-CCM has 4 to 16, even numbers (RFC 3610)")
    length = tag_bits // 8
    sealed = ciphertext + tag
    if result == "invalid":
        return "AES-CCM", "ccm_open", [key, nonce, aad, sealed, length], refused()
    arguments = [key, nonce, aad, message, sealed, length]
    return "AES-CCM", "ccm", arguments, _judge(result, [sealed, message])


def _hkdf(algorithm: str, _group: Node, test: Node, result: str) -> _Asked:
    if algorithm != "HKDF-SHA-256":
        raise _Skip(f"{algorithm or 'HKDF of an unnamed hash'}: the core has HKDF-SHA-256")
    size = test.number("size")
    if not 0 <= size < 1 << 32:
        raise test.error("'size' is out of any range")
    arguments = [test.hex("salt", b""), test.hex("ikm"), test.hex("info", b""), size]
    return "HKDF-SHA-256", "hkdf", arguments, _judge(result, test.hex("okm", b""))


def _mac(algorithm: str, group: Node, test: Node, result: str) -> _Asked:
    if algorithm not in ("HMACSHA256", "HMAC-SHA-256"):
        raise _Skip(f"{algorithm or 'an unnamed MAC'}: the core has HMAC-SHA-256")
    tag = test.hex("tag")
    bits = group.number("tagSize", 8 * len(tag))
    if bits % 8 or not 8 <= bits <= 256:
        raise _Skip(f"tags of {bits} bits: HMAC-SHA-256 has whole bytes up to 32")
    arguments = [test.hex("key"), test.hex("msg")]
    return "HMAC-SHA-256", "hmac", arguments, _tag(result, tag, bits // 8)


def _tag(result: str, tag: bytes, size: int) -> Judge:
    """The core makes a MAC of 32 bytes; the vector's tag is the first ``size`` of them, or not."""

    def judge(answer: Answer) -> Verdict:
        if answer.crash or not isinstance(answer.value, bytes):
            return failed(tag, answer)
        made = answer.value[:size]
        if made == tag:
            return failed("another tag", made) if result == "invalid" else RIGHT
        return failed(tag, made) if result == "valid" else REFUSED

    return judge


_HANDLERS: dict[str, Callable[[str, Node, Node, str], _Asked]] = {
    "EcdhEcpointTest": _ecdh("ecdh", "ECDH P-256, points"),
    "EcdhTest": _ecdh("ecdh_spki", "ECDH P-256, SPKI"),
    "EcdsaVerify": _ecdsa("ecdsa_der", "ECDSA P-256, DER"),
    "EcdsaP1363Verify": _ecdsa("ecdsa", "ECDSA P-256, r || s"),
    "AeadTest": _aead,
    "HkdfTest": _hkdf,
    "MacTest": _mac,
}
