"""Make rollover.json: a realm that goes from one root to the next, and answers that must not do it.

Run by hand when the tests need another answer: python tests/vectors/make_rollover.py. The keys are
for tests alone.
"""

import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from make_enrolment import REALM, Ca, body, builder, device, usage


def cross(subject: Ca, issuer: Ca, key=None) -> x509.Certificate:
    """``subject`` as ``issuer`` certifies it; with another key it is a lie."""
    return (
        builder(subject.name, key or subject.key, issuer.name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(usage(sign=True), critical=True)
        .sign(issuer.key, hashes.SHA256())
    )


def main() -> None:
    old_root, new_root, evil_root = Ca("root 1"), Ca("root 2"), Ca("root 2")
    old, new = Ca("issuing 1", old_root), Ca("issuing 2", new_root)
    evil = Ca("issuing 2", evil_root)
    old_pair = old.certificate, old_root.certificate
    new_pair = new.certificate, new_root.certificate
    new_with_old, old_with_new = cross(new_root, old_root), cross(old_root, new_root)
    by_itself = cross(evil_root, Ca("root 1"))
    both = *old_pair, *new_pair, new_with_old, old_with_new

    keys = {label: ec.generate_private_key(ec.SECP256R1()) for label in ("pump-7", "gauge-2")}
    devices = {}
    for label, key in keys.items():
        devices[label] = {
            "private": key.private_numbers().private_value.to_bytes(32, "big").hex(),
            **{
                generation: device(ca, key, f"sip:{label}@{REALM}").public_bytes(Encoding.DER).hex()
                for generation, ca in (("old", old), ("new", new))
            },
        }

    def der(certificate: x509.Certificate) -> str:
        return certificate.public_bytes(Encoding.DER).hex()

    data = {
        "source": "tests/vectors/make_rollover.py",
        "realm": REALM,
        "old root": der(old_root.certificate),
        "old issuing": der(old.certificate),
        "new root": der(new_root.certificate),
        "new issuing": der(new.certificate),
        "devices": devices,
        "enrolled": {
            label: body(x509.load_der_x509_certificate(bytes.fromhex(made["new"])))
            for label, made in devices.items()
        },
        "cacerts": {
            "before": body(*old_pair),
            "both": body(*both),
            "after": body(*new_pair, new_with_old),
        },
        # For a device that holds the old root alone; the answer has nothing new to it.
        "not introduced": {
            "no cross certificate": body(*old_pair, *new_pair),
            "the new one certified the old": body(*old_pair, *new_pair, old_with_new),
            "by a stranger of the old root's name": body(
                *old_pair, evil.certificate, evil_root.certificate, by_itself
            ),
            "another key than was certified": body(
                *old_pair, evil.certificate, evil_root.certificate, new_with_old
            ),
            "a root that is not signed by itself": body(
                *old_pair, evil.certificate, cross(evil_root, new_root), new_with_old
            ),
        },
        # For a device that holds the old root alone: nothing in it is under that.
        "refused": {
            "the new pair alone": body(*new_pair),
            "a root of the same name": body(evil.certificate, evil_root.certificate, new_with_old),
            "one certified by a stranger": body(evil.certificate, evil_root.certificate, by_itself),
        },
    }
    Path(__file__).with_name("rollover.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
