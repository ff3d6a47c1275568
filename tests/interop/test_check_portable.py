"""The portability check: what it finds, and what it leaves alone."""

import subprocess
import sys
from pathlib import Path

import check_portable
import pytest

REFUSED = {
    "pow(3, -1, 7)": "silently returns 0",
    "import enum": "module enum is absent",
    "from typing import Any": "module typing is absent",
    "from time import monotonic": "time.monotonic is absent",
    "import time\ntime.monotonic()": "time.monotonic is absent",
    "import time as clock\nclock.perf_counter()": "time.perf_counter is absent",
    "import struct\nstruct.error": "struct.error is absent",
    "import os\nos.replace('a', 'b')": "os.replace is absent",
    "import asyncio\nasyncio.Queue()": "asyncio.Queue is absent",
    "TimeoutError": "builtin TimeoutError is absent",
    "ConnectionError": "builtin ConnectionError is absent",
    "(5).bit_length()": ".bit_length is absent",
    "'7'.zfill(3)": ".zfill is absent",
    "h.hexdigest()": ".hexdigest() is absent",
    "b'ab'[::-1]": "a slice with a step fails on bytes",
    "raise ValueError() from OSError()": "drops its cause",
    "async def g():\n    yield 1": "async generator",
    "class A(metaclass=M):\n    pass": "metaclasses",
    "class A:\n    __slots__ = ('a',)": "__slots__ restricts nothing",
    "class A:\n    def __init_subclass__(cls):\n        pass": "never called",
    "isinstance(x, int | str)": "tuple of types",
    "open('f', 'x')": "open mode 'x'",
    "open('f', mode='xb')": "open mode 'x'",
    "import re\nre.match('a{2}', 'aa')": "{n} never matches",
    "x.to_bytes(2, 'big', signed=True)": "'signed'",
    "import asyncio\nasyncio.wait_for(asyncio.sleep(1), 2)": "wrap it",
    "import asyncio\nasyncio.open_connection('h', 1, ssl=True)": "verifies nothing",
    "if CPYTHON:\n    pass\nelse:\n    import enum": "module enum is absent",
}

ALLOWED = (
    "pow(3, 5, 7)",
    "def f(x: 'int | None') -> 'dict[str, int]':\n    return x",
    "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from typing import Any",
    "if CPYTHON:\n    from hmac import compare_digest",
    "if not CPYTHON:\n    import cryptolib\nelse:\n    import hmac",
    "import time\nif hasattr(time, 'ticks_ms'):\n    time.ticks_ms()\nelse:\n    time.monotonic()",
    "import os\nif hasattr(os, 'fsync'):\n    os.fsync(1)",
    "try:\n    import machine\n    import esp32\nexcept ImportError:\n    machine = None",
    "class Titled:\n    def title(self):\n        return 1\nTitled().title()",
    "raise ValueError() from None",
    "from keyferry_core.errors import ERRORS\nERRORS",
    "b'ab'[1:]",
    "import re\nre.match('a+', 'aa')",
)


@pytest.mark.parametrize("source", REFUSED)
def test_it_finds(source: str) -> None:
    findings = check_portable.check_sources({"x.py": source})
    assert len(findings) == 1, findings
    assert REFUSED[source] in findings[0].text
    assert findings[0].line >= 1


@pytest.mark.parametrize("source", ALLOWED)
def test_it_leaves_alone(source: str) -> None:
    assert check_portable.check_sources({"x.py": source}) == []


def test_every_module_of_a_device_passes_and_a_planted_one_fails(tmp_path: Path) -> None:
    assert check_portable.main([]) == 0
    planted = tmp_path / "planted.py"
    planted.write_text("import dataclasses\n")
    done = subprocess.run(
        [sys.executable, check_portable.__file__, str(planted)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "planted.py:1: module dataclasses is absent" in done.stdout
