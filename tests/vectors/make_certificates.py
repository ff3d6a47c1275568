"""Make certificates.json: certificates, what `cryptography` reads in them, and some to be refused.

    python tests/vectors/make_certificates.py

Keys, serials and signatures follow from the labels, so the same file comes out every time; a test
compares it. The keys are for tests alone.
"""

import base64
import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs7,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

REALM = "plant.example"
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 4, 1, tzinfo=UTC)
FAR = datetime(2046, 1, 1, tzinfo=UTC)
NOW = int(datetime(2026, 2, 1, tzinfo=UTC).timestamp())

# As keyferry_core.x509 numbers them: bit n of the standard's list.
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def digest(label: str) -> int:
    return int.from_bytes(hashlib.sha256(label.encode()).digest())


def key_of(label: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(digest("key " + label) >> 1, curve or ec.SECP256R1())


def name(*attributes: tuple[ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])


def common(text: str) -> x509.Name:
    return name((NameOID.COMMON_NAME, text))


def usage(*flags: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{flag: flag in flags for flag in USAGES})


def uri(device: str, realm: str = REALM) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier("sip:" + device + "@" + realm)


BASIC = (x509.BasicConstraints(False, None), True)
SIGNS = (usage("digital_signature"), True)
CLIENT = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
SERVER = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
CA_USAGE = (usage("key_cert_sign", "crl_sign"), True)
NEW_CRITICAL = (x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.1.2"), b"\x05\x00"), True)


def alternative(*names: x509.GeneralName) -> tuple[x509.ExtensionType, bool]:
    return x509.SubjectAlternativeName(names), False


class Made:
    """The certificates so far, by label."""

    def __init__(self) -> None:
        self.certificates: dict[str, x509.Certificate] = {}

    def add(
        self,
        label: str,
        issuer: str,
        extensions: tuple,
        subject: x509.Name | None = None,
        issuer_name: x509.Name | None = None,
        dates: tuple[datetime, datetime] = (START, END),
        key=None,
        signing_key=None,
        hash_algorithm: hashes.HashAlgorithm | None = hashes.SHA256(),  # noqa: B008
        serial: int = 0,
    ) -> None:
        key = key or key_of(label)
        subject = subject or common(label)
        parent = self.certificates.get(issuer)
        if issuer_name is None:
            issuer_name = parent.subject if parent else subject
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer_name)
            .public_key(key.public_key())
            .serial_number(serial or digest("serial " + label) >> 128)
            .not_valid_before(dates[0])
            .not_valid_after(dates[1])
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        signing_key = signing_key or (key_of(issuer) if parent else key)
        elliptic = isinstance(signing_key, ec.EllipticCurvePrivateKey)
        self.certificates[label] = builder.sign(
            signing_key, hash_algorithm, ecdsa_deterministic=True if elliptic else None
        )


def make() -> Made:
    made = Made()
    add = made.add
    root = (x509.BasicConstraints(True, 1), True)
    issuing = (x509.BasicConstraints(True, 0), True)

    def identifiers(label: str, issuer: str) -> tuple:
        return (
            (x509.SubjectKeyIdentifier.from_public_key(key_of(label).public_key()), False),
            (
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key_of(issuer).public_key()),
                False,
            ),
        )

    add("root", "", (root, CA_USAGE, *identifiers("root", "root")), dates=(START, FAR))
    add("issuing", "root", (issuing, CA_USAGE, *identifiers("issuing", "root")), dates=(START, FAR))
    pump = alternative(uri("pump-7"))
    device = (BASIC, SIGNS, *identifiers("pump-7", "issuing"), CLIENT, pump)
    add("pump-7", "issuing", device)

    # CAs that may not issue what they are asked to have issued
    add(
        "limited", "root", ((x509.BasicConstraints(True, None), True), CA_USAGE), dates=(START, FAR)
    )
    add("below-limited", "limited", (issuing, CA_USAGE), dates=(START, FAR))
    add("below-issuing", "issuing", (issuing, CA_USAGE), dates=(START, FAR))
    add("no-usage", "root", (issuing,), subject=common("issuing"), key=key_of("issuing"))
    add("wrong-usage", "root", (issuing, SIGNS), subject=common("issuing"), key=key_of("issuing"))
    add("not-ca", "root", (BASIC, CA_USAGE), subject=common("issuing"), key=key_of("issuing"))
    constraints = x509.NameConstraints([x509.DNSName("example")], None)
    add(
        "constrained",
        "root",
        (issuing, CA_USAGE, (constraints, True)),
        subject=common("issuing"),
        key=key_of("issuing"),
    )
    add("other-key", "root", (issuing, CA_USAGE), subject=common("issuing"))
    # the same text as another string type is another name
    add(
        "other-name",
        "root",
        (issuing, CA_USAGE),
        subject=x509.Name(
            [
                x509.NameAttribute(
                    NameOID.COMMON_NAME, "issuing", x509.name._ASN1Type.PrintableString
                )
            ]
        ),
        key=key_of("issuing"),
    )

    # devices that are not quite
    add("two-uris", "issuing", (BASIC, SIGNS, CLIENT, alternative(uri("a"), uri("b"))))
    add("no-uri", "issuing", (BASIC, SIGNS, CLIENT, alternative(x509.DNSName("pump-7"))))
    add("no-names", "issuing", (BASIC, SIGNS, CLIENT))
    add("other-realm", "issuing", (BASIC, SIGNS, CLIENT, alternative(uri("pump-7", "b.example"))))
    add("the-manager", "issuing", (BASIC, SIGNS, CLIENT, alternative(uri("manager"))))
    add("upper-case", "issuing", (BASIC, SIGNS, CLIENT, alternative(uri("Pump-7"))))
    web = x509.UniformResourceIdentifier("https://plant.example/pump-7")
    add("web-uri", "issuing", (BASIC, SIGNS, CLIENT, alternative(web)))
    add("server", "issuing", (BASIC, SIGNS, SERVER, pump))
    add("no-purpose", "issuing", (BASIC, SIGNS, pump))
    any_purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    add("any-purpose", "issuing", (BASIC, SIGNS, (any_purpose, False), pump))
    add("agreement", "issuing", (BASIC, (usage("key_agreement"), True), CLIENT, pump))
    add("no-key-usage", "issuing", (BASIC, CLIENT, pump))
    add("a-ca", "issuing", (issuing, (usage("digital_signature"), True), CLIENT, pump))
    add("critical", "issuing", (BASIC, SIGNS, CLIENT, pump, NEW_CRITICAL))
    add("plain-new", "issuing", (BASIC, SIGNS, CLIENT, pump, (NEW_CRITICAL[0], False)))
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    mixed = alternative(
        x509.DNSName("pump-7.plant.example"),
        x509.RFC822Name("pump@plant.example"),
        x509.DirectoryName(common("pump")),
        x509.RegisteredID(ObjectIdentifier("1.2.3.4")),
        x509.OtherName(ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
        uri("pump-8"),
    )
    all_usages = usage("digital_signature", "key_agreement", "decipher_only")
    add("mixed", "issuing", (BASIC, (all_usages, False), (both, True), mixed))

    # names and dates
    add(
        "factory",
        "",
        (BASIC, SIGNS, CLIENT),
        subject=name(
            (NameOID.COUNTRY_NAME, "CH"),
            (NameOID.ORGANIZATION_NAME, "factory"),
            (NameOID.COMMON_NAME, "pump-7"),
        ),
    )
    add("two-names", "", (), subject=name(*((NameOID.COMMON_NAME, text) for text in "ab")))
    add("nameless", "", (), subject=x509.Name([]))
    several = x509.RelativeDistinguishedName(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "pompe-7 à Zürich"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "plant"),
        ]
    )
    add("several", "", (), subject=x509.Name([several]))
    add("far", "", (), dates=(datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59)))
    add("turn", "", (), dates=(datetime(2049, 12, 31, 23, 59, 59), datetime(2050, 1, 1)))
    add("early", "", (), dates=(datetime(1950, 1, 1), datetime(1969, 12, 31, 23, 59, 59)))
    add("long-serial", "", (), serial=(1 << 159) - 1)
    return made


def make_refused() -> Made:
    """All but the one with a signature of 768 bits say openly that they are of another kind."""
    made = Made()
    add = made.add
    edwards = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    add("Ed25519", "", (), key=edwards, hash_algorithm=None)
    add("P-384", "", (), key=key_of("P-384", ec.SECP384R1()))
    add("a P-256 key signed by P-384", "", (), signing_key=key_of("P-384", ec.SECP384R1()))
    add("secp256k1", "", (), key=key_of("secp256k1", ec.SECP256K1()))
    add("ECDSA with SHA-384", "", (), hash_algorithm=hashes.SHA384())
    return made


def seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def facts(certificate: x509.Certificate) -> dict:
    """What `cryptography` reads, in the terms of keyferry_core.x509.Certificate."""
    return {**plain_facts(certificate), **extension_facts(certificate)}


def plain_facts(certificate: x509.Certificate) -> dict:
    point = certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    r, s = decode_dss_signature(certificate.signature)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return {
        "serial": f"{certificate.serial_number:x}",
        "issuer": certificate.issuer.public_bytes().hex(),
        "subject": certificate.subject.public_bytes().hex(),
        "common_name": names[0].value if len(names) == 1 else None,
        "not_before": seconds(certificate.not_valid_before_utc),
        "not_after": seconds(certificate.not_valid_after_utc),
        "public_key": point.hex(),
        "tbs": certificate.tbs_certificate_bytes.hex(),
        "signature": f"{r:064x}{s:064x}",
    }


def extension_facts(certificate: x509.Certificate) -> dict:
    row: dict = {
        "uris": [],
        "is_ca": False,
        "path_length": None,
        "key_usage": None,
        "ext_key_usage": [],
        "unknown_critical": False,
    }
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            row["is_ca"] = value.ca
            row["path_length"] = value.path_length
        elif isinstance(value, x509.KeyUsage):
            row["key_usage"] = key_usage(value)
        elif isinstance(value, x509.ExtendedKeyUsage):
            row["ext_key_usage"] = [oid.dotted_string for oid in value]
        elif isinstance(value, x509.SubjectAlternativeName):
            row["uris"] = value.get_values_for_type(x509.UniformResourceIdentifier)
        elif extension.critical:
            row["unknown_critical"] = True
    return row


def key_usage(value: x509.KeyUsage) -> int:
    number = 0
    for bit, flag in enumerate(USAGES):
        # The last two have a meaning beside key_agreement only; without it they cannot be read.
        if (bit < 7 or value.key_agreement) and getattr(value, flag):
            number |= 1 << bit
    return number


# certificate, issuer, and a word of the reason why it is refused; an empty one when it is not
VERIFY = (
    ("pump-7", "issuing", ""),
    ("issuing", "root", ""),
    ("root", "root", ""),
    ("limited", "root", ""),
    ("below-limited", "limited", ""),
    ("factory", "factory", "may not sign"),
    ("pump-7", "root", "another issuer"),
    ("issuing", "issuing", "another issuer"),
    ("below-issuing", "issuing", "further CAs"),
    ("pump-7", "pump-7", "may not sign"),
    ("pump-7", "no-usage", "may not sign"),
    ("pump-7", "wrong-usage", "may not sign"),
    ("pump-7", "not-ca", "may not sign"),
    ("pump-7", "constrained", "unknown critical"),
    ("pump-7", "other-key", "does not verify"),
    ("pump-7", "other-name", "another issuer"),
    ("critical", "issuing", ""),
)
# certificate, seconds from NOW, and the device's name or a word of the reason
DEVICE = (
    ("pump-7", 0, "pump-7", ""),
    ("pump-7", seconds(START) - NOW, "pump-7", ""),
    ("pump-7", seconds(END) - NOW, "pump-7", ""),
    ("pump-7", seconds(START) - NOW - 1, "", "not valid yet"),
    ("pump-7", seconds(END) - NOW + 1, "", "expired"),
    ("plain-new", 0, "pump-7", ""),
    ("mixed", 0, "pump-8", ""),
    ("two-uris", 0, "", "one URI"),
    ("no-uri", 0, "", "one URI"),
    ("no-names", 0, "", "one URI"),
    ("other-realm", 0, "", "another realm"),
    ("the-manager", 0, "", "reserved"),
    ("upper-case", 0, "", "a-z"),
    ("web-uri", 0, "", "sip:NAME@REALM"),
    ("server", 0, "", "not for clients"),
    ("no-purpose", 0, "", "not for clients"),
    ("any-purpose", 0, "", "not for clients"),
    ("agreement", 0, "", "not for signatures"),
    ("no-key-usage", 0, "", "not for signatures"),
    ("a-ca", 0, "", "a CA is not a device"),
    ("critical", 0, "", "unknown critical"),
    ("issuing", 0, "", "a CA is not a device"),
    ("factory", 0, "", "one URI"),
)


def document() -> str:
    made = make().certificates
    refused = make_refused().certificates
    key = key_of("pump-7")
    chain = [made["issuing"], made["root"]]
    content = {
        "source": "made by make_certificates.py with `cryptography`",
        "licence": "Apache-2.0",
        "realm": REALM,
        "now": NOW,
        "certificates": {
            label: {"der": encoded(certificate).hex(), **facts(certificate)}
            for label, certificate in made.items()
        },
        "refused": {label: encoded(certificate).hex() for label, certificate in refused.items()},
        "verify": VERIFY,
        "device": DEVICE,
        "key": {
            "private": f"{key.private_numbers().private_value:064x}",
            "sec1": key.private_bytes(
                Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()
            ).hex(),
            "pkcs8": key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()).hex(),
        },
        "pkcs7": {
            # A SET OF in DER is sorted: the order in which they were given is lost.
            "labels": sorted(("issuing", "root"), key=lambda label: encoded(made[label])),
            "base64": base64.b64encode(pkcs7.serialize_certificates(chain, Encoding.DER)).decode(),
        },
    }
    return json.dumps(content, indent=1) + "\n"


def encoded(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


if __name__ == "__main__":
    path = Path(__file__).with_name("certificates.json")
    path.write_text(document())
    print(path.name, len(path.read_bytes()), "bytes", file=sys.stderr)
