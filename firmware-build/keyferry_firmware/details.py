"""Puts numbers in place of the sentences that errors carry for the log, and turns them back.

Each sentence in an image costs its text in flash and an object in the heap, whether or not the
error ever happens: 20 KB and 10 KB in all on a 64-bit interpreter. A small number costs neither.
So on a device an error's detail reads ``#3fa2c1``, and

    python -m keyferry_firmware.details LOGFILE     (or standard input)

says what it stands for, and what the short names in a traceback are in the sources (rename.py):
those of the same version. The number comes from the sentence alone, so it is the same in every
image that has the sentence. Names of errors, and details that are put together from parts, stay.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from keyferry_firmware import rename, sources
from keyferry_firmware.fold import fold

BASE = "KeyferryError"
_NUMBER = re.compile(r"#([0-9a-f]{6})\b")


def number(sentence: str) -> int:
    """24 bits, which fit into a small integer on every board."""
    return int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:3], "big")


def shorten(texts: dict[str, bytes]) -> dict[str, bytes]:
    """``{"package/module.py": source}`` with numbers in place of the sentences."""
    trees = {path: ast.parse(text) for path, text in texts.items()}
    errors = _errors(trees.values())
    change = _Sentences(errors)
    return {path: ast.unparse(change.visit(tree)).encode() for path, tree in trees.items()}


def table(texts: Iterable[bytes]) -> dict[int, str]:
    """``{number: sentence}`` of all sources. ValueError when two sentences have one number."""
    trees = [ast.parse(text) for text in texts]
    errors = _errors(trees)
    found: dict[int, str] = {}
    for tree in trees:
        for node in ast.walk(tree):
            for sentence in _sentences(node, errors):
                if found.setdefault(number(sentence), sentence) != sentence:
                    raise ValueError(f"two details with one number: reword {sentence!r}")
    return found


def explain(text: str, known: dict[int, str], names: rename.Names | None = None) -> str:
    """``text`` with each number that is known followed by its sentence.

    With ``names``, what tracebacks call a function is followed by its name in the sources.
    """
    if names is not None:
        text = rename.explain(text, names)

    def add(found: re.Match[str]) -> str:
        sentence = known.get(int(found[1], 16))
        return found[0] if sentence is None else f"{found[0]} ({sentence})"

    return _NUMBER.sub(add, text)


def _errors(trees: Iterable[ast.Module]) -> set[str]:
    """The names of the core's error and of all classes made from it."""
    parents = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {BASE}
    while more := {name for name, bases in parents.items() if bases & found} - found:
        found |= more
    return found


def _sentence(node: ast.expr) -> str:
    """The sentence that ``node`` is, or "". The name of an error, also a text, is one word."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
        return node.value
    return ""


def _sentences(node: ast.AST, errors: set[str]) -> list[str]:
    """The sentences that ``node`` hands to an error, if it makes one."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
        return []
    name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
    if name not in errors:
        return []
    return [sentence for part in node.args if (sentence := _sentence(part))]


class _Sentences(ast.NodeTransformer):
    def __init__(self, errors: set[str]) -> None:
        self._errors = errors

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if _sentences(node, self._errors):
            node.args = [
                ast.Constant(number(sentence)) if (sentence := _sentence(part)) else part
                for part in node.args
            ]
        return node


def main() -> int:
    """Copy a log to standard output and add the sentences."""
    texts = {path: file.read_bytes() for path, file in sources.everything().items()}
    known = table(texts.values())
    names = rename.choose(fold(texts))
    for name in sys.argv[1:]:
        sys.stdout.write(explain(Path(name).read_text(errors="replace"), known, names))
    if not sys.argv[1:]:
        for line in sys.stdin:
            sys.stdout.write(explain(line, known, names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
