"""Plain tables: a title, a line of headings, lines of cells."""

from collections.abc import Sequence

Cell = str | int | float | None


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.3f}" if abs(cell) < 10 else f"{cell:.1f}"
    return str(cell)


def show(title: str, headings: Sequence[str], lines: Sequence[Sequence[Cell]]) -> None:
    """Print it; the first column to the left, numbers to the right."""
    texts = [[_text(cell) for cell in line] for line in lines]
    columns = list(zip(headings, *texts, strict=True))
    widths = [max(len(text) for text in column) for column in columns]
    print("\n" + title)
    for line in [list(headings), *texts]:
        first, *rest = line
        cells = [first.ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        print("  " + "  ".join(cells).rstrip())
