"""Refuse, in code that MicroPython runs, what MicroPython lacks or silently gets wrong.

Names are held to the pinned interpreter itself, which is asked what it has; constructs whose
failure shows late or never are found in the syntax tree. Blocks that MicroPython never enters,
such as those under ``if TYPE_CHECKING`` and ``if CPYTHON``, are left out.

    python tools/check_portable.py [FILE ...]      without files: all that a device carries
"""

import ast
import builtins
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keyferry_firmware import sources
from keyferry_hil import interpreter

# Ours, and a library whose own project tests it on MicroPython.
OWN_PACKAGES = ("keyferry_core", "keyferry_agent", "microdot")
GUARDS = ("TYPE_CHECKING", "CPYTHON")  # False on a device
TYPES = ("str", "bytes", "bytearray", "int", "float", "list", "dict", "set", "tuple", "memoryview")
# Methods of objects that are not builtins, for which the same holds.
ABSENT_METHODS = {
    "hexdigest": "absent: use digest().hex()",
    "isoformat": "absent: there is no datetime",
}
_ASK = """
import builtins, json, sys
modules = {}
for name in sys.argv[1:]:
    try:
        modules[name] = dir(__import__(name, None, None, ("*",)))
    except ImportError:
        pass
types = {name: dir(getattr(builtins, name)) for name in %r}
print(json.dumps({"builtins": dir(builtins), "types": types, "modules": modules}))
"""


@dataclass(frozen=True)
class Finding:
    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Runtime:
    """What the interpreter has: its builtins, and the attributes of the modules asked about."""

    builtins: frozenset[str]
    methods: frozenset[str]
    modules: dict[str, frozenset[str]]

    @classmethod
    def ask(cls, modules: set[str]) -> "Runtime":
        code = _ASK % (TYPES,)
        # '-c' takes no further arguments on MicroPython, so the list goes in by value.
        code = code.replace("sys.argv[1:]", repr(sorted(modules)))
        done = subprocess.run(
            [*interpreter.command(), "-c", code],
            env={"MICROPYPATH": ".frozen"},
            capture_output=True,
            text=True,
            check=True,
        )
        answer = json.loads(done.stdout)
        return cls(
            frozenset(answer["builtins"]),
            frozenset(name for names in answer["types"].values() for name in names),
            {name: frozenset(names) for name, names in answer["modules"].items()},
        )


CPYTHON_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_")) - {
    *("True", "False", "None"),
}
CPYTHON_METHODS = frozenset(
    name for kind in TYPES for name in dir(getattr(builtins, kind)) if not name.startswith("_")
)


def truth(test: ast.expr, runtime: Runtime | None = None) -> bool | None:
    """What an ``if`` decides on MicroPython, as far as it can be told: else None.

    It can for TYPE_CHECKING, CPYTHON, ``hasattr(module, "name")``, and 'not' and 'and' of these.
    """
    if _name(test) in GUARDS:
        return False
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = truth(test.operand, runtime)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        parts = [truth(part, runtime) for part in test.values]
        return False if False in parts else None if None in parts else True
    if runtime is not None and isinstance(test, ast.Call) and _name(test.func) == "hasattr":
        module, name = test.args
        if _name(module) in runtime.modules and isinstance(name, ast.Constant):
            return name.value in runtime.modules[_name(module)]
    return None


def visible(node: ast.AST, runtime: Runtime | None = None) -> Iterator[ast.AST]:
    """Every node that MicroPython runs: no guarded block, no annotation (it never looks at one)."""
    yield node
    decided = truth(node.test, runtime) if isinstance(node, ast.If) else None
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        if (field == "body" and decided is False) or (field == "orelse" and decided is True):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from visible(child, runtime)


def imported_modules(tree: ast.AST) -> set[str]:
    """The modules, other than our own, that the visible part of a tree imports."""
    names: set[str] = set()
    for node in visible(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name for name in names if name.split(".")[0] not in OWN_PACKAGES}


def _is_minus_one(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


class Checker:
    """The findings of one file."""

    def __init__(self, path: str, tree: ast.Module, runtime: Runtime) -> None:
        self.findings: list[Finding] = []
        self._path = path
        self._tree = tree
        self._runtime = runtime
        self._aliases: dict[str, str] = {}
        self._optional: set[int] = set()
        self._defined: set[str] = set()

    def check(self) -> list[Finding]:
        nodes = list(visible(self._tree, self._runtime))
        for node in nodes:
            self._note(node)
        for node in nodes:
            method = getattr(self, "_" + type(node).__name__, None)
            if method is not None:
                method(node)
        return self.findings

    def _say(self, node: ast.AST, text: str) -> None:
        self.findings.append(Finding(self._path, getattr(node, "lineno", 0), text))

    def _note(self, node: ast.AST) -> None:
        """Collect what later checks ask: names of modules, own definitions, optional imports."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                self._aliases[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._defined.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            self._defined.add(node.id)
        elif isinstance(node, ast.arg):
            self._defined.add(node.arg)
        elif isinstance(node, ast.Try) and any(
            handler.type is not None and _name(handler.type) == "ImportError"
            for handler in node.handlers
        ):
            self._optional.update(id(child) for child in node.body)

    def _Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_module(node, alias.name)

    def _ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level or module.split(".")[0] in OWN_PACKAGES:
            self._defined.update(alias.asname or alias.name for alias in node.names)
            return
        if not self._check_module(node, module):
            return
        for alias in node.names:
            self._defined.add(alias.asname or alias.name)
            if alias.name not in self._runtime.modules[module] and id(node) not in self._optional:
                self._say(node, f"{module}.{alias.name} is absent")

    def _check_module(self, node: ast.stmt, name: str) -> bool:
        if name.split(".")[0] in OWN_PACKAGES:
            return True
        if Path(self._path).with_name(name + ".py").is_file():
            return True  # a script's neighbour
        present = name in self._runtime.modules
        if not present and id(node) not in self._optional:
            self._say(node, f"module {name} is absent")
        return present

    def _Name(self, node: ast.Name) -> None:
        if (
            isinstance(node.ctx, ast.Load)
            and node.id in CPYTHON_BUILTINS
            and node.id not in self._runtime.builtins
            and node.id not in self._defined
        ):
            self._say(node, f"builtin {node.id} is absent")

    def _Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in self._aliases:
            module = self._aliases[node.value.id]
            known = self._runtime.modules.get(module)
            if known is not None and node.attr not in known:
                self._say(node, f"{module}.{node.attr} is absent")
            return
        if node.attr in self._defined:
            return
        if node.attr in ABSENT_METHODS:
            self._say(node, f".{node.attr}() is {ABSENT_METHODS[node.attr]}")
        elif node.attr in CPYTHON_METHODS and node.attr not in self._runtime.methods:
            self._say(node, f".{node.attr} is absent from MicroPython's builtin types")

    def _Call(self, node: ast.Call) -> None:
        called = _name(node.func)
        arguments = node.args
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if called == "pow" and len(arguments) == 3 and _is_minus_one(arguments[1]):
            self._say(node, "pow with a negative exponent and a modulus silently returns 0")
        if called in ("to_bytes", "from_bytes") and "signed" in keywords:
            self._say(node, f"{called}: 'signed' is ignored or refused")
        first = arguments[0] if arguments else None
        if called == "wait_for" and isinstance(first, ast.Call) and _name(first.func) == "sleep":
            self._say(node, "wait_for takes no sleep itself: wrap it in an async def")
        if called == "isinstance" and len(arguments) == 2 and isinstance(arguments[1], ast.BinOp):
            self._say(node, "isinstance takes a tuple of types, no A | B")
        mode = arguments[1] if len(arguments) > 1 else keywords.get("mode")
        if called == "open" and isinstance(mode, ast.Constant) and "x" in str(mode.value):
            self._say(node, "open mode 'x' is absent")
        secure = keywords.get("ssl")
        if isinstance(secure, ast.Constant) and secure.value is True:
            self._say(node, "ssl=True verifies nothing: pass a context with CERT_REQUIRED")
        if (
            isinstance(node.func, ast.Attribute)
            and _name(node.func.value) == "re"
            and isinstance(first, ast.Constant)
            and re.search(r"\{\d", str(first.value))
        ):
            self._say(node, "a regular expression with {n} never matches")

    def _Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Slice) and node.slice.step is not None:
            self._say(node, "a slice with a step fails on bytes")

    def _Raise(self, node: ast.Raise) -> None:
        if node.cause is not None and not (
            isinstance(node.cause, ast.Constant) and node.cause.value is None
        ):
            self._say(node, "'raise ... from error' drops its cause")

    def _AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        for child in visible(node):
            if isinstance(child, ast.Yield | ast.YieldFrom):
                self._say(child, "an async generator is a plain generator here")

    def _ClassDef(self, node: ast.ClassDef) -> None:
        if node.keywords:
            self._say(node, "metaclasses and class keywords are absent")
        for child in node.body:
            if isinstance(child, ast.FunctionDef) and child.name == "__init_subclass__":
                self._say(child, "__init_subclass__ is never called")
            if isinstance(child, ast.Assign) and any(
                _name(target) == "__slots__" for target in child.targets
            ):
                self._say(child, "__slots__ restricts nothing")


def check_sources(files: dict[str, str]) -> list[Finding]:
    """The findings in ``{"path": source}``."""
    trees = {path: ast.parse(source, path) for path, source in files.items()}
    modules: set[str] = set()
    for tree in trees.values():
        modules |= imported_modules(tree)
    runtime = Runtime.ask(modules)
    findings = []
    for path, tree in trees.items():
        findings += Checker(path, tree, runtime).check()
    return findings


def main(arguments: list[str]) -> int:
    if arguments:
        paths = [Path(name) for name in arguments]
    else:
        root = Path(__file__).resolve().parent.parent
        paths = list(sources.everything().values())
        paths += sorted((root / "device").glob("*.py"))
        paths += sorted((root / "hil" / "keyferry_hil" / "on_device").rglob("*.py"))
        firmware = root / "firmware-build" / "keyferry_firmware" / "on_device"
        paths += sorted(firmware.rglob("*.py"))
    here = Path.cwd()
    files = {
        str(path.relative_to(here) if path.is_relative_to(here) else path): path.read_text()
        for path in paths
    }
    findings = check_sources(files)
    for finding in findings:
        print(finding)
    print(f"{len(files)} files that MicroPython runs, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
