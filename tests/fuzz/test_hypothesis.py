"""The targets' properties under hypothesis: changed seeds and plain bytes, a few hundred each."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import inputs, mutate, targets
from fuzz.kit import Source, edit

# Whole handshakes take some milliseconds each.
EXAMPLES = {"edhoc": 60, "session": 40, "records": 80}
DEFAULT = 200


def _flip(data: bytes, most: int) -> bytes:
    """What a mutation does to a part of an input, where no fuzzer is there to do it."""
    changes = bytes([2]) + random.Random(data).randbytes(24)
    return edit(data, Source(changes))[:most]


@pytest.mark.parametrize("name", targets.NAMES)
def test_changed_inputs(name: str) -> None:
    target = targets.load(name)
    structured = mutate.mutator(name)
    known = [*target.seeds(), *inputs.read_all(name)]

    @settings(
        max_examples=EXAMPLES.get(name, DEFAULT),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
    )
    @given(st.sampled_from(known), st.binary(max_size=48), st.integers(0, 1 << 32))
    def holds(data: bytes, changes: bytes, seed: int) -> None:
        if structured is not None:
            target.one_input(structured(_flip, data, 4096, seed))
        target.one_input(edit(data, Source(changes)))

    holds()


@pytest.mark.parametrize("name", targets.NAMES)
def test_any_bytes(name: str) -> None:
    target = targets.load(name)

    @settings(
        max_examples=EXAMPLES.get(name, DEFAULT), deadline=None, database=None, derandomize=True
    )
    @given(st.binary(max_size=300))
    def holds(data: bytes) -> None:
        target.one_input(data)

    holds()
