"""Enrolment's certificates: base64 of PKCS#7, or the PKCS#7 itself.

Input: a choice, then base64 (odd) or DER (even).
"""

from fuzz.kit import attempt
from keyferry_core import est_codec
from keyferry_core._compat import CPYTHON

second_opinion = None
if CPYTHON:
    from fuzz import second_opinion


def decode(data: bytes) -> tuple:
    parse = est_codec.parse_certs if data[:1] and data[0] & 1 else est_codec.parse_pkcs7
    return attempt(parse, data[1:])


def one_input(data: bytes) -> None:
    good, found = decode(data)
    body = data[1:]
    if data[:1] and data[0] & 1:
        unpacked, encoded = attempt(est_codec._unbase64, body)
        if unpacked:
            assert est_codec.encode_request(encoded) == b"".join(body.split())
        if second_opinion:
            second_opinion.base64_text(body, encoded if unpacked else None)
        if not good:
            return
        assert unpacked
        assert len(body) <= est_codec.MAX_CERTS_BODY
        body = encoded
    if not good:
        return
    assert 1 <= len(found) <= est_codec.MAX_CERTIFICATES
    for each in found:
        assert each[0] == 0x30
        assert each in body
    if second_opinion:
        second_opinion.certificates(body, found)


def seeds() -> list:
    import binascii

    from support.portable import vectors

    text = vectors("certificates")["pkcs7"]["base64"]
    lines = "\r\n".join([text[i : i + 64] for i in range(0, len(text), 64)]) + "\r\n"
    found = [b"\x01" + text.encode(), b"\x01" + lines.encode()]
    return found + [b"\x00" + binascii.a2b_base64(text), b"\x01QQ==", b"\x01QR==", b"\x01Q"]
