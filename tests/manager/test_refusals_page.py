"""docs/refusals.md says what happens: each refusal is made to happen again."""

from pathlib import Path

import pytest

from support import refusals


@pytest.mark.timeout(600)
def test_every_refusal_is_answered_and_written_down_as_the_page_says(tmp_path: Path):
    written = refusals.PAGE.read_text(encoding="utf-8").splitlines()
    seen = refusals.page(tmp_path).splitlines()
    assert len(seen) > 90
    for line, (was, now) in enumerate(zip(written, seen, strict=False), 1):
        assert now == was, f"docs/refusals.md:{line}: PYTHONPATH=tests python -m support.refusals"
    assert len(written) == len(seen)
