"""``keyferry vectors`` for tests: the files it is asked for, and its answers."""

import json
import re
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from keyferry_manager.cli import app

VECTORS = Path(__file__).parents[1] / "vectors"
# Each file that is of a known format, with its cases: passed, refused among them, not offered.
FILES = {
    "aes_ccm_rfc3610_nist": (15, 0, 0),
    "cbor_appendix_a": (82, 38, 0),
    "cose_wg_subset": (16, 10, 0),
    "edhoc_p256_interop_x509": (246, 0, 0),
    "edhoc_rfc9529": (191, 15, 8),
    "edhoc_x5chain": (171, 0, 0),
    "oscore_rfc8613": (76, 0, 10),
    "rfc6979_p256_sha256": (2, 0, 0),
    "wycheproof_aes_ccm": (92, 27, 0),
    "wycheproof_ecdh_secp256r1_ecpoint": (355, 24, 0),
    "wycheproof_ecdh_secp256r1_spki_subset": (300, 282, 0),
    "wycheproof_ecdsa_secp256r1_sha256": (484, 310, 0),
    "wycheproof_ecdsa_secp256r1_sha256_p1363": (262, 89, 0),
    "wycheproof_hkdf_sha256": (83, 3, 0),
    "wycheproof_hmac_sha256": (174, 108, 0),
}
ALL = [VECTORS / f"{name}.json" for name in FILES]
TOTAL = sum(numbers[0] for numbers in FILES.values())


def keyferry(*arguments: object, code: int = 0) -> Result:
    """The command in this process, held to its exit code and to the form of its last line."""
    result = CliRunner().invoke(
        app, ["vectors", *map(str, arguments)], env={"COLUMNS": "200"}, catch_exceptions=False
    )
    assert result.exit_code == code, result.output
    output = result.stderr if "--json" in arguments else result.stdout
    assert re.fullmatch("[0-9]+ passed, [0-9]+ failed", output.splitlines()[-1])
    return result


def last_line(result: Result) -> str:
    return result.stdout.splitlines()[-1]


def document(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_bytes())


def write(folder: Path, content: Any, name: str = "planted.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path
