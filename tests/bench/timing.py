"""Runs all cases of all workers in turns and keeps what is in the middle."""

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from bench.workers import Worker

COUNT = "count "


def interleaved(workers: dict[str, Worker], rounds: int) -> dict[str, dict[str, Any]]:
    """``{worker: {case: middle}}``: microseconds, or four of them for a case with steps.

    Each round runs every case once in every worker, one right after the other, so that the ratios
    between workers hold on a machine that others use too.
    """
    found: dict[str, dict[str, list[Any]]] = {name: {} for name in workers}
    for number in range(rounds + 1):
        for case in sorted(set().union(*(worker.cases for worker in workers.values()))):
            if case.startswith(COUNT):
                continue
            for name, worker in workers.items():
                if case in worker.cases:
                    value = worker.run(case)
                    if number:  # the first round warms up
                        found[name].setdefault(case, []).append(value)
    return {
        name: {case: _middles(values) for case, values in cases.items()}
        for name, cases in found.items()
    }


def _middles(values: list[Any]) -> Any:
    if isinstance(values[0], list):
        return [_middle(list(step)) for step in zip(*values, strict=True)]
    return _middle(values)


def _middle(values: list[float]) -> float:
    """The mean of the middle half: as steady as a median, and finer than the clock."""
    quarter = len(values) // 4
    return fmean(sorted(values)[quarter : len(values) - quarter])


def counts(worker: Worker) -> dict[str, list[list[int]]]:
    """``{case: [fixed, variable, double] for each of the four steps}``."""
    cases: Iterable[str] = sorted(case for case in worker.cases if case.startswith(COUNT))
    return {case.removeprefix(COUNT): worker.run(case) for case in cases}
