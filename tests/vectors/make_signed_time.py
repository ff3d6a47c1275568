"""Makes signed_time.json: a realm's certificates and the keys that may, and may not, sign its time.

python tests/vectors/make_signed_time.py
"""

import json
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from keyferry_manager.authority import LocalAuthority, files, passes
from keyferry_manager.config import FILE_NAME, Config, template

ISSUING_KEY = "ca/issuing.key"  # in a manager's home
NOW = 1795000000  # 2026-11-18


def der(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.DER).hex()


def number(key: ec.EllipticCurvePrivateKey) -> str:
    return f"{key.private_numbers().private_value:064x}"


def realm(folder: Path, name: str) -> LocalAuthority:
    folder.mkdir()
    (folder / FILE_NAME).write_text(template(name))
    return LocalAuthority.create(Config.load(folder), NOW)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        ours = realm(Path(place) / "ours", "plant.example")
        other = realm(Path(place) / "other", "plant.example")
        key = files.load_key(ours.server_file)
        server = files.load_certificates(ours.server_file)[0]
        foreign = files.load_certificates(other.server_file)[0]
        device_key = ec.generate_private_key(ec.SECP256R1())
        device = ours.issue_device("pump-7", device_key.public_key(), NOW)
        names = (x509.DNSName("other.example"),)
        issuer = passes.Issuer(files.load_key(Path(place) / "ours" / ISSUING_KEY), ours.issuing)
        draft = passes.modify(
            passes.SERVER, passes.server_subject(), names, key.public_key(), issuer, NOW, 365
        )
        elsewhere = passes.issue(draft, issuer, "other.example", NOW)
        document = {
            "source": "made by make_signed_time.py with the manager's own authority",
            "realm": "plant.example",
            "now": NOW,
            "root": der(ours.root),
            "issuing": der(ours.issuing),
            "server": der(server),
            "private": number(key),
            "device": der(device),
            "device private": number(device_key),
            "server of another name": der(elsewhere),
            "foreign server": der(foreign),
            "foreign issuing": der(other.issuing),
            "foreign private": number(files.load_key(other.server_file)),
        }
    path = Path(__file__).with_name("signed_time.json")
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
