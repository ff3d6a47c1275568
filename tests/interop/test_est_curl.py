"""Pages of docs/, command by command: enrolment, and the life of a certificate, with curl and
openssl, as the pages say."""

from pathlib import Path

import pytest

from keyferry_core.errors import rows
from keyferry_hil.free_port import free_port
from support.page import run_page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.needs("curl", "openssl", "bash")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["est.md", "certificates.md"])
def test_the_page_does_what_it_says(tmp_path: Path, name: str):
    page = (DOCS / name).read_text(encoding="utf-8")
    # The ports of the page may be in use here; nothing else is changed.
    for port in ("8443", "8883"):
        page = page.replace(port, str(free_port()))
    run_page(page, tmp_path)


def test_the_page_names_every_error_of_enrolment():
    page = (DOCS / "est.md").read_text(encoding="utf-8")
    for name, code, *_ in rows():
        if 40 <= code < 60:
            assert f"`{name}`" in page
