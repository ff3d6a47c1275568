"""Make enrolment.json: what an EST server may answer to one device, good and bad.

Run by hand when the tests need another answer: python tests/vectors/make_enrolment.py. The keys
are for tests alone.
"""

import base64
import datetime
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

REALM = "plant.example"
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2046, 1, 1, tzinfo=datetime.UTC)
EARLY = START + datetime.timedelta(days=90)


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def usage(sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


class Ca:
    """A CA certificate and its key, signed by ``parent`` or by itself."""

    def __init__(
        self, common_name: str, parent: "Ca | None" = None, end=END, ca: bool = True
    ) -> None:
        self.name = common_name
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = parent or self
        self.certificate = (
            builder(common_name, self.key, signer.name, end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage(sign=True), critical=True)
            .sign(signer.key, hashes.SHA256())
        )


def builder(subject: str, key, issuer: str, end=END) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() >> 32)
        .not_valid_before(START)
        .not_valid_after(end)
    )


def device(ca: Ca, key, uri: str = "sip:pump-7@" + REALM, end=END, client: bool = True):
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    return (
        builder("pump-7", key, ca.name, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
        .sign(ca.key, hashes.SHA256())
    )


def body(*certificates) -> str:
    return base64.b64encode(pkcs7.serialize_certificates(certificates, Encoding.DER)).decode()


def main() -> None:
    root, other_root = Ca("root"), Ca("root")
    issuing = Ca("issuing", root)
    expired = Ca("issuing", root, EARLY)
    rogue = Ca("issuing", other_root)
    no_ca = Ca("issuing", root, ca=False)
    key = ec.generate_private_key(ec.SECP256R1())
    next_key = ec.generate_private_key(ec.SECP256R1())
    good = device(issuing, key)

    def private(of) -> str:
        return of.private_numbers().private_value.to_bytes(32, "big").hex()

    data = {
        "source": "tests/vectors/make_enrolment.py",
        "realm": REALM,
        "name": "pump-7",
        "now": int(datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC).timestamp()),
        "root": root.certificate.public_bytes(Encoding.DER).hex(),
        "other root": other_root.certificate.public_bytes(Encoding.DER).hex(),
        "issuing": issuing.certificate.public_bytes(Encoding.DER).hex(),
        "private": private(key),
        "next private": private(next_key),
        "certificate": good.public_bytes(Encoding.DER).hex(),
        "renewed": device(issuing, key).public_bytes(Encoding.DER).hex(),
        "cacerts": {
            "good": body(issuing.certificate, root.certificate),
            "only issuing": body(issuing.certificate),
            "one of another root beside it": body(
                rogue.certificate, other_root.certificate, issuing.certificate
            ),
            "bad: of another root": body(rogue.certificate, other_root.certificate),
            "bad: only the root": body(root.certificate),
            "bad: expired": body(expired.certificate, root.certificate),
            "bad: not a CA": body(no_ca.certificate, root.certificate),
        },
        "enrolled": {
            "good": body(good),
            "with its chain": body(issuing.certificate, good),
            "next key": body(device(issuing, next_key)),
            "bad: another key": body(device(issuing, ec.generate_private_key(ec.SECP256R1()))),
            "bad: another name": body(device(issuing, key, "sip:pump-8@" + REALM)),
            "bad: another realm": body(device(issuing, key, "sip:pump-7@other.example")),
            "bad: expired": body(device(issuing, key, end=EARLY)),
            "bad: for servers": body(device(issuing, key, client=False)),
            "bad: rogue issuer of the same name": body(device(rogue, key)),
            "bad: straight from the root": body(device(root, key)),
            "bad: only the issuing CA": body(issuing.certificate),
        },
    }
    Path(__file__).with_name("enrolment.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
