"""The COSE working group's examples: all of one kind in a file, or one example by itself.

The core verifies COSE_Sign1 with ES256 and opens COSE_Encrypt0 with its two AES-CCM algorithms.
Messages of every other structure or algorithm reach it from outside as well, so they must be
refused, and are judged by that.
"""

from keyferry_hil.vectors.fields import Node
from keyferry_hil.vectors.model import (
    RIGHT,
    Answer,
    Check,
    Judge,
    Question,
    VectorFile,
    Verdict,
    failed,
    refused,
    same,
)

_AEAD = ("AES-CCM-16-128/64", "AES-CCM-16-128/128")
_STRUCTURES = ("sign0", "encrypted", "sign", "enveloped", "mac", "mac0")
# The point 1*G, for messages that are refused before any key matters.
_ANY_KEY = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


def knows(document: Node) -> bool:
    value = document.value
    return isinstance(value.get("examples"), dict) or {"input", "output"} <= set(value)


def parse(document: Node, name: str) -> VectorFile:
    found = VectorFile(name, "COSE working group")
    if "examples" in document.value:
        examples = list(document.node("examples").children())
    else:
        examples = [(document.text("title", "the example"), document)]
    for title, example in examples:
        given = example.node("input")
        message = example.node("output").hex("cbor")
        kind = next((key for key in _STRUCTURES if key in given.value), "")
        if not kind:
            raise given.error("none of the structures " + ", ".join(_STRUCTURES))
        if kind == "sign0":
            question = _sign1(example, given, message)
        elif kind == "encrypted":
            question = _encrypt0(example, given, message)
        else:
            question = _foreign(kind, message)
        label, operation, arguments, judge = question
        check = Check(title, judge, example.text("title", ""))
        found.questions.append(Question(label, operation, arguments, [check]))
    return found


def _must_fail(example: Node, given: Node) -> bool:
    return bool(example.value.get("fail") or given.value.get("fail"))


def _algorithm(structure: Node) -> str:
    if structure.has("alg"):
        return structure.text("alg")
    for header in ("protected", "unprotected"):
        if structure.has(header) and structure.node(header).has("alg"):
            return structure.node(header).text("alg")
    return ""


def _plaintext(given: Node) -> bytes:
    if given.has("plaintext_hex"):
        return given.hex("plaintext_hex")
    return given.text("plaintext").encode()


def _coordinate(key: Node, name: str) -> bytes:
    return key.hex(name + "_hex") if key.has(name + "_hex") else key.base64url(name)


def _sign1(example: Node, given: Node, message: bytes) -> tuple[str, str, list, Judge]:
    structure = given.node("sign0")
    key, external = structure.node("key"), structure.hex("external", b"")
    algorithm, curve = _algorithm(structure), key.text("crv", "")
    public, judge = _ANY_KEY, refused(f"refused: {algorithm or 'no algorithm'} on {curve}")
    if curve == "P-256":
        public = b"\x04" + _coordinate(key, "x") + _coordinate(key, "y")
        if algorithm == "ES256":
            judge = refused()
            if not _must_fail(example, given):
                signed = _intermediate(example, "ToBeSign_hex")
                judge = _opened(_plaintext(given), signed)
    return "COSE_Sign1", "cose_sign1", [public, message, external], judge


def _encrypt0(example: Node, given: Node, message: bytes) -> tuple[str, str, list, Judge]:
    structure = given.node("encrypted")
    external, algorithm = structure.hex("external", b""), _algorithm(structure)
    key = _intermediate(example, "CEK_hex")
    if key is None:
        recipient = next(structure.nodes("recipients"), None)
        if recipient is None:
            raise structure.error("neither 'CEK_hex' nor a recipient's key")
        secret = recipient.node("key")
        key = secret.hex("k_hex") if secret.has("k_hex") else secret.base64url("k")
    judge = refused(f"refused: {algorithm or 'no algorithm'}")
    if algorithm in _AEAD:
        judge = refused()
        if not _must_fail(example, given):
            judge = _opened(_plaintext(given), _intermediate(example, "AAD_hex"))
    return "COSE_Encrypt0", "cose_encrypt0", [key, message, external], judge


def _intermediate(example: Node, name: str) -> bytes | None:
    if not example.has("intermediates"):
        return None
    steps = example.node("intermediates")
    return steps.hex(name) if steps.has(name) else None


def _opened(content: bytes, covered: bytes | None) -> Judge:
    """The content, and what signature or tag were computed over where the file says it."""

    def judge(answer: Answer) -> Verdict:
        if answer.crash or answer.refusal:
            return failed(content, answer)
        expected = [content, answer.value[1] if covered is None else covered]
        return RIGHT if same(answer.value, expected) else failed(expected, answer)

    return judge


def _foreign(kind: str, message: bytes) -> tuple[str, str, list, Judge]:
    judge = refused(f"refused: the structure {kind!r} is not spoken")
    if kind == "enveloped":
        return f"COSE, {kind}", "cose_encrypt0", [bytes(16), message, b""], judge
    return f"COSE, {kind}", "cose_sign1", [_ANY_KEY, message, b""], judge
