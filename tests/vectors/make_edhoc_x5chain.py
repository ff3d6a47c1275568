"""Make edhoc_x5chain.json: EDHOC with method 0 and certificates by x5chain, by a second hand.

Nothing of the core is used here: key schedule and messages are written out from RFC 9528 over
`cryptography` and `cbor2`. Keys and certificates are those of edhoc_p256_interop_x509.json, whose
traces this program reproduces first, to show that it can. Run by hand:
python tests/vectors/make_edhoc_x5chain.py.
"""

import json
from pathlib import Path
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

HERE = Path(__file__).parent
INTEROP = json.loads((HERE / "edhoc_p256_interop_x509.json").read_text())
TAG = {2: 8, 3: 16}
X5CHAIN = 33


def digest(data: bytes) -> bytes:
    context = hashes.Hash(hashes.SHA256())
    context.update(data)
    return context.finalize()


def extract(salt: bytes, secret: bytes) -> bytes:
    context = HMAC(salt, hashes.SHA256())
    context.update(secret)
    return context.finalize()


def kdf(prk: bytes, label: int, context: bytes, length: int) -> bytes:
    info = cbor2.dumps(label) + cbor2.dumps(context) + cbor2.dumps(length)
    return HKDFExpand(hashes.SHA256(), length, info).derive(prk)


def key(private: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int(private, 16), ec.SECP256R1())


def x_of(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_numbers().x.to_bytes(32, "big")


def signature(private: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    der = private.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(der))


def proof(private: Any, id_cred: bytes, th: bytes, cred: bytes, ead: bytes, mac: bytes) -> bytes:
    """Signature_or_MAC_x: a COSE_Sign1 signature over the MAC (sections 5.3.2 and 5.4.2)."""
    external = cbor2.dumps(th) + cred + ead
    return signature(private, cbor2.dumps(["Signature1", id_cred, external, mac]))


def run(suite: int, given: dict[str, bytes], i: Any, r: Any, x: Any, y: Any) -> dict[str, str]:
    """One exchange; ``given`` has identifiers (each one byte long), credentials and EAD."""
    tag = TAG[suite]
    g_x, g_y = x_of(x), x_of(y)
    message_1 = cbor2.dumps(0) + cbor2.dumps(suite) + cbor2.dumps(g_x) + given["c_i"]
    message_1 += given["ead_1"]
    th_2 = digest(cbor2.dumps(g_y) + cbor2.dumps(digest(message_1)))
    prk = extract(th_2, x.exchange(ec.ECDH(), y.public_key()))

    id_cred, cred, ead = given["id_cred_r"], given["cred_r"], given["ead_2"]
    context = given["c_r"] + id_cred + cbor2.dumps(th_2) + cred + ead
    mac_2 = kdf(prk, 2, context, 32)
    plaintext_2 = given["c_r"] + id_cred
    plaintext_2 += cbor2.dumps(proof(r, id_cred, th_2, cred, ead, mac_2)) + ead
    keystream = kdf(prk, 0, th_2, len(plaintext_2))
    ciphertext_2 = bytes(a ^ b for a, b in zip(plaintext_2, keystream, strict=True))
    message_2 = cbor2.dumps(g_y + ciphertext_2)
    th_3 = digest(cbor2.dumps(th_2) + plaintext_2 + cred)

    id_cred, cred, ead = given["id_cred_i"], given["cred_i"], given["ead_3"]
    mac_3 = kdf(prk, 6, id_cred + cbor2.dumps(th_3) + cred + ead, 32)
    plaintext_3 = id_cred + cbor2.dumps(proof(i, id_cred, th_3, cred, ead, mac_3)) + ead
    message_3 = _sealed(prk, 3, th_3, plaintext_3, tag)
    th_4 = digest(cbor2.dumps(th_3) + plaintext_3 + cred)
    message_4 = _sealed(prk, 8, th_4, given["ead_4"], tag)
    prk_out = kdf(prk, 7, th_4, 32)
    exporter = kdf(prk_out, 10, b"", 32)
    found = {
        "message_1": message_1,
        "message_2": message_2,
        "message_3": message_3,
        "message_4": message_4,
        "plaintext_2": plaintext_2,
        "th_3": th_3,
        "th_4": th_4,
        "prk_2e": prk,
        "prk_out": prk_out,
        "oscore_master_secret": kdf(exporter, 0, b"", 16),
        "oscore_master_salt": kdf(exporter, 1, b"", 8),
        "exporter_40000_32": kdf(exporter, 40000, b"", 32),
        "key_update_context": bytes(range(16)),
        "prk_out_updated": kdf(prk_out, 11, bytes(range(16)), 32),
    }
    return {name: value.hex() for name, value in found.items()}


def _sealed(prk: bytes, label: int, th: bytes, plaintext: bytes, tag: int) -> bytes:
    aead = AESCCM(kdf(prk, label, th, 16), tag_length=tag)
    additional = cbor2.dumps(["Encrypt0", b"", th])
    return cbor2.dumps(aead.encrypt(kdf(prk, label + 1, th, 13), plaintext, additional))


def parts(trace: dict[str, Any], chain: dict[str, Any]) -> dict[str, bytes]:
    given = {"ead_" + n: bytes.fromhex(trace["ead"][n]) for n in "1234"}
    for who in ("i", "r"):
        given["c_" + who] = bytes.fromhex(trace["c_" + who])
        given["cred_" + who] = cbor2.dumps(bytes.fromhex(INTEROP["cert_" + who]))
        given["id_cred_" + who] = chain[who]
    return given


def main() -> None:
    i, r = key(INTEROP["priv_i"]), key(INTEROP["priv_r"])
    leaf = {who: bytes.fromhex(INTEROP["cert_" + who]) for who in ("i", "r")}
    issuer = bytes.fromhex(INTEROP["ca_cert"])
    alone = {who: cbor2.dumps({X5CHAIN: leaf[who]}) for who in leaf}
    longer = {who: cbor2.dumps({X5CHAIN: [leaf[who], issuer]}) for who in leaf}
    forms = {
        "x5chain": alone,
        "x5chain, the Initiator's with its issuing CA": {**alone, "i": longer["i"]},
        "x5chain, the Responder's with its issuing CA": {**alone, "r": longer["r"]},
    }
    traces = []
    for known in INTEROP["traces"]:
        if known["method"] != 0:
            continue
        x, y = key(known["x"]), key(known["y"])
        same = {who: bytes.fromhex(known["id_cred_" + who]) for who in leaf}
        again = run(known["suite"], parts(known, same), i, r, x, y)
        assert all(known[name] == value for name, value in again.items()), "cannot reproduce"
        for form, chain in forms.items():
            found = run(known["suite"], parts(known, chain), i, r, x, y)
            kept = {
                name: known[name] for name in ("method", "suite", "x", "y", "c_i", "c_r", "ead")
            }
            ids = {"id_cred_" + who: chain[who].hex() for who in leaf}
            traces.append({**kept, "id": form, **ids, **found})
    document = {
        "source": "our own, make_edhoc_x5chain.py: method 0, suites 2 and 3, written from RFC 9528 "
        "over other libraries than the core's",
        "licence": "Apache-2.0",
        **{name: INTEROP[name] for name in INTEROP if name.startswith(("ca_", "cert_", "priv_"))},
        "traces": traces,
    }
    (HERE / "edhoc_x5chain.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
