"""Labels for claim tokens: a QR code for each device as PNG, and a sheet of them as PDF.

The sheet is A4 with 3 columns and 8 rows of 70 by 37 millimetres, as label paper has them; the code
is drawn as squares, so that it prints sharply at any size.
"""

import io

import segno

_POINTS = 72 / 25.4  # of a millimetre
_WIDTH, _HEIGHT = 210 * _POINTS, 297 * _POINTS
_COLUMNS, _ROWS = 3, 8
_LABEL = (70 * _POINTS, _HEIGHT / _ROWS)
_SIDE = 28 * _POINTS
_QUIET = 4  # modules of white that a reader needs around a code


def _code(text: str) -> segno.QRCode:
    return segno.make_qr(text, error="m")


def png(text: str) -> bytes:
    """The code alone, 8 pixels a module."""
    target = io.BytesIO()
    _code(text).save(target, kind="png", scale=8, border=_QUIET)
    return target.getvalue()


def sheet(labels: list[tuple[str, str, str]]) -> bytes:
    """A PDF with a label for each ``(name, realm, text of the code)``."""
    each = _COLUMNS * _ROWS
    return _pdf([_page(labels[at : at + each]) for at in range(0, len(labels), each)])


def _page(labels: list[tuple[str, str, str]]) -> bytes:
    drawn = []
    for number, (name, realm, text) in enumerate(labels):
        row, column = divmod(number, _COLUMNS)
        left = column * _LABEL[0] + 4 * _POINTS
        bottom = _HEIGHT - (row + 1) * _LABEL[1] + 4 * _POINTS
        drawn.append(_squares(text, left, bottom))
        at = left + _SIDE + 2 * _POINTS
        lines = [*_wrapped(name), *_wrapped(realm)]
        for line, words in enumerate(lines):
            height = bottom + _SIDE - (12 + 9 * line)
            drawn.append(f"BT /F1 7 Tf {at:.2f} {height:.2f} Td ({_escaped(words)}) Tj ET")
    return "\n".join(drawn).encode("ascii")


def _wrapped(text: str) -> list[str]:
    return [text[at : at + 26] for at in range(0, len(text), 26)]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def _squares(text: str, left: float, bottom: float) -> str:
    rows = list(_code(text).matrix_iter(border=_QUIET))
    side = _SIDE / len(rows)
    drawn = [
        f"{left + x * side:.3f} {bottom + (len(rows) - 1 - y) * side:.3f} {side:.3f} {side:.3f} re"
        for y, row in enumerate(rows)
        for x, dark in enumerate(row)
        if dark
    ]
    return "\n".join([*drawn, "f"])


def _pdf(pages: list[bytes]) -> bytes:
    """A PDF 1.4 file: catalog, page tree, font, then each page and what is drawn on it."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, page in enumerate(pages):
        objects.append(
            (
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {_WIDTH:.2f} {_HEIGHT:.2f}] "
                f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>"
            ).encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%b\nendstream" % (len(page), page))
    data = b"%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    count = len(objects) + 1
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n" % count + table + trailer
