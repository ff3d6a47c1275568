"""A figure over the runs, as SVG for a page."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 460, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 22
_COLOURS = ("#1f6feb", "#b35900", "#1a7f37", "#8250df", "#bf3989", "#57606a")


@dataclass(frozen=True)
class Line:
    """One board's points in pixels, with what each one is."""

    board: str
    colour: str
    points: tuple[tuple[float, float, str], ...]

    @property
    def path(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in self.points)


@dataclass(frozen=True)
class Chart:
    """``marks``: the scale, as (pixels from the top, text)."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    marks: tuple[tuple[float, str], ...]
    runs: int


def chart(name: str, unit: str, boards: Mapping[str, Sequence[tuple[float, float]]]) -> Chart:
    """Each run has the same width, whenever it was; the scale begins at zero."""
    runs = sorted({at for values in boards.values() for at, _ in values})
    most = max(value for values in boards.values() for _, value in values) or 1.0
    wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    column = {at: number for number, at in enumerate(runs)}

    def place(at: float, value: float) -> tuple[float, float, str]:
        across = column[at] / (len(runs) - 1) if len(runs) > 1 else 0.5
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
        return (
            _LEFT + across * wide,
            _TOP + (1 - value / most) * high,
            f"{when}: {value:g} {unit}",
        )

    lines = tuple(
        Line(
            board or "all",
            _COLOURS[number % len(_COLOURS)],
            tuple(place(at, value) for at, value in values),
        )
        for number, (board, values) in enumerate(sorted(boards.items()))
    )
    marks = tuple((_TOP + (1 - part) * high, _text(part * most)) for part in (0, 0.5, 1))
    return Chart(name, unit, lines, marks, len(runs))


def _text(value: float) -> str:
    """A number in few characters."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= 10 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"
