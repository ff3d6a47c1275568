"""Files of single primitives: RFC 6979's signatures, and AES-CCM of RFC 3610 and NIST."""

from keyferry_hil.vectors.fields import Node
from keyferry_hil.vectors.model import (
    RIGHT,
    Answer,
    Check,
    Judge,
    NotOffered,
    Question,
    VectorFile,
    Verdict,
    exactly,
    failed,
)

# The order of P-256's group (SP 800-186, 3.2.1.3).
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _first_test(document: Node) -> dict:
    tests = document.value.get("tests")
    first = tests[0] if isinstance(tests, list) and tests else None
    return first if isinstance(first, dict) else {}


def knows_rfc6979(document: Node) -> bool:
    return {"x", "ux", "uy", "tests"} <= set(document.value)


def parse_rfc6979(document: Node, name: str) -> VectorFile:
    """Deterministic ECDSA: key ``x``, its point ``ux``, ``uy``; tests of ``msg``, ``k``, r, s."""
    found = VectorFile(name, "RFC 6979")
    private, tests = document.scalar("x"), list(document.nodes("tests"))
    point = [document.integer("ux"), document.integer("uy")]
    if max(point) >> 256 or len(private) > 32:
        reason = "a curve of more than 256 bits: the core has P-256"
        found.not_offered.append(NotOffered("RFC 6979", len(tests), reason))
        return found
    public = b"\x04" + b"".join(value.to_bytes(32, "big") for value in point)
    for number, test in enumerate(tests, 1):
        digest = test.text("hash", document.text("hash", "SHA-256"))
        if digest != "SHA-256":
            reason = f"ECDSA with {digest}: the core has SHA-256"
            found.not_offered.append(NotOffered("RFC 6979", 1, reason))
            continue
        message = test.text("msg").encode()
        signature = test.scalar("r") + test.scalar("s")
        judge = _signature(private, message, public, signature, _nonce(test))
        check = Check(f"test {number}", judge, test.text("msg"))
        found.questions.append(Question("ECDSA P-256, sign", "sign", [private, message], [check]))
    return found


def _nonce(test: Node) -> int | None:
    return test.integer("k") if test.has("k") else None


def _signature(
    private: bytes, message: bytes, public: bytes, signature: bytes, nonce: int | None
) -> Judge:
    import hashlib

    plain = exactly([public, signature, True])
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")

    def judge(answer: Answer) -> Verdict:
        verdict = plain(answer)
        if verdict is not RIGHT or nonce is None:
            return verdict
        # s = k^-1 (digest + r x) mod n names the k that was used (FIPS 186-5, 6.4.1).
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        used = (digest + r * int.from_bytes(private, "big")) * pow(s, -1, _N) % _N
        return RIGHT if used == nonce else failed(f"k = {nonce:x}", f"k = {used:x}")

    return judge


def knows_aes_ccm(document: Node) -> bool:
    return {"key", "nonce", "msg", "ct"} <= set(_first_test(document))


def parse_aes_ccm(document: Node, name: str) -> VectorFile:
    """AES-CCM: tests of ``key``, ``nonce``, ``aad``, ``msg`` and ``ct``, ciphertext with tag."""
    found = VectorFile(name, "AES-CCM (RFC 3610, NIST)")
    for number, test in enumerate(document.nodes("tests"), 1):
        key, nonce, aad = test.hex("key"), test.hex("nonce"), test.hex("aad", b"")
        message, sealed = test.hex("msg"), test.hex("ct")
        length = len(sealed) - len(message)
        reason = ""
        if len(key) != 16:
            reason = f"keys of {8 * len(key)} bits: the core has AES-CCM with 128-bit keys"
        elif not 7 <= len(nonce) <= 13:
            reason = f"nonce of {len(nonce)} bytes: AES-CCM has 7 to 13 (RFC 3610)"
        elif length not in (4, 6, 8, 10, 12, 14, 16):
            reason = f"tag of {length} bytes: AES-CCM has 4 to 16, even numbers (RFC 3610)"
        if reason:
            found.not_offered.append(NotOffered("AES-CCM", 1, reason))
            continue
        check = Check(test.text("name", f"test {number}"), exactly([sealed, message]))
        arguments = [key, nonce, aad, message, sealed, length]
        found.questions.append(Question("AES-CCM", "ccm", arguments, [check]))
    return found
