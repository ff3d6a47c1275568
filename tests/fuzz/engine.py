"""One atheris process: ``python tests/fuzz/engine.py TARGET [libFuzzer options and folders]``."""

import gc
import shlex
import sys
import tracemalloc
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests")]

import atheris  # noqa: E402

with atheris.instrument_imports(include=["keyferry_core", "keyferry_manager.relay.wire"]):
    from fuzz import targets

    TARGET = targets.load(sys.argv[1])

from fuzz import bounds, mutate  # noqa: E402

# Memory is measured after one run of so many: that makes a run some ten times slower.
MEASURED = 512
# Bytes for atheris' own notes, made inside the code under test: bounds for that code are 24 KiB up.
ALLOWANCE = 131072


class Runner:
    """Calls the target, and measures now and then."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0

    def __call__(self, data: bytes) -> None:
        TARGET.one_input(data)
        self._count += 1
        if not self._count % MEASURED:
            bounds.decode_within(self._name, TARGET.decode, data, ALLOWANCE)


def main(arguments: list[str]) -> None:
    name = arguments[0]
    # libFuzzer's merge starts itself anew through a shell, by the first word of its arguments.
    me = " ".join(shlex.quote(part) for part in (sys.executable, __file__, name))
    structured = mutate.mutator(name)
    atheris.Setup(
        [me, *arguments[1:]],
        Runner(name),
        custom_mutator=structured and (lambda *given: structured(atheris.Mutate, *given)),
    )
    gc.collect()
    tracemalloc.stop()
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
