"""The heap of a device whose link breaks again and again stays as it is."""

import asyncio

import pytest

from soak.soak import SLACK, Sample, judge, run


@pytest.mark.timeout(300)
def test_the_heap_is_flat_over_reconnects_and_records() -> None:
    found = asyncio.run(run(100, 2000, 10))
    assert [(sample.reconnects, sample.records) for sample in found.samples[::9]] == [
        (10, 200),
        (100, 2000),
    ]
    assert found.flat, found.samples


@pytest.mark.parametrize("a_reconnect", [0, 8, 48])
def test_what_a_reconnect_leaves_behind_is_found(a_reconnect: int) -> None:
    """Over 1,000 reconnects, with as much noise as real runs have."""
    samples = [
        Sample(100 * n, 1000 * n, 110_464 + 96 * (n % 3) + 100 * n * a_reconnect, 0, 0)
        for n in range(1, 11)
    ]
    found = judge(samples)
    assert found.flat == (a_reconnect == 0)
    assert abs(found.grown - 600 * a_reconnect) <= 96 < SLACK
