"""Make identities.json: a realm's issuing CA and devices of every kind that a test refuses.

Run by hand when the tests need another kind: python tests/vectors/make_identities.py. The keys are
for tests alone.
"""

import datetime
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2046, 1, 1, tzinfo=datetime.UTC)


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


def build(subject: str, key, issuer: str, issuer_key, end=END):
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() >> 32)
        .not_valid_before(START)
        .not_valid_after(end)
    )


def ca(common_name: str):
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        build(common_name, key, common_name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def device(issuer_name: str, issuer_key, label: str, uri: str, end=END) -> dict:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        build(label, key, issuer_name, issuer_key, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )
    der = serialization.Encoding.DER
    point = serialization.PublicFormat.UncompressedPoint
    return {
        "private": key.private_numbers().private_value.to_bytes(32, "big").hex(),
        "public": key.public_key().public_bytes(serialization.Encoding.X962, point).hex(),
        "certificate": certificate.public_bytes(der).hex(),
    }


def main() -> None:
    issuing, rogue = "plant.example issuing", "plant.example issuing"
    key, certificate = ca(issuing)
    rogue_key, _ = ca(rogue)
    expired = START + datetime.timedelta(days=90)
    devices = {
        "panel-1": device(issuing, key, "panel-1", "sip:panel-1@plant.example"),
        "pump-7": device(issuing, key, "pump-7", "sip:pump-7@plant.example"),
        "valve-2": device(issuing, key, "valve-2", "sip:valve-2@plant.example"),
        "second pump-7": device(issuing, key, "pump-7", "sip:pump-7@plant.example"),
        "expired pump-7": device(issuing, key, "pump-7", "sip:pump-7@plant.example", expired),
        "rogue pump-7": device(rogue, rogue_key, "pump-7", "sip:pump-7@plant.example"),
        "pump-7 elsewhere": device(issuing, key, "pump-7", "sip:pump-7@other.example"),
    }
    der = serialization.Encoding.DER
    data = {
        "source": "tests/vectors/make_identities.py",
        "realm": "plant.example",
        "issuer": certificate.public_bytes(der).hex(),
        "now": int(datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC).timestamp()),
        "devices": devices,
    }
    Path(__file__).with_name("identities.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
