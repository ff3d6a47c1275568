"""Test vectors against the core, on any runtime: ``keyferry vectors``.

``formats`` turns files into questions and checks (``model``), one module per format; ``runtimes``
and ``board`` have the questions answered; ``run`` judges the answers. What a vector expects stays
here, on the host: the runtime under test sees inputs only.
"""

from pathlib import Path

_SHIPPED = ("cbor_appendix_a", "rfc6979_p256_sha256", "aes_ccm_rfc3610_nist", "edhoc_rfc9529")


def shipped() -> list[Path]:
    """The vector files that come with the bench, for a board's self-test."""
    here = Path(__file__).parent
    folders = (here / "data", here.parent.parent.parent / "tests" / "vectors")
    folder = next(folder for folder in folders if folder.is_dir())
    return [folder / f"{name}.json" for name in _SHIPPED]
