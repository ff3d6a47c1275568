"""Gives private names and the core's parameters short names that modules share, in an image.

MicroPython keeps one table of all names that code ever mentions, in the heap, and each module
file brings the names it uses. Sources say ``_encode_identifier``; an image says ``_4``, and the
next module's private function may be ``_4`` too. Nothing public is renamed, but for parameters of
the core: code from elsewhere passes those by position.

What is renamed, and to what:

- a name with one leading underscore that is an attribute somewhere (or a class member, a keyword,
  imported by name): one short name for it in the whole image;
- a name with one leading underscore that only its module's own code says: a short name that is
  unique in that module;
- a parameter of the core's functions, and of the agent's private ones, unless some call in the
  image names it: a short name that is unique in that function and all that it encloses.

What is left alone: whatever is also a text somewhere (``getattr``), a name of a module, and what
the image does not define itself. The short names come from the sources of core and agent alone,
so ``details.py`` can turn a traceback's names back.
"""

import ast
import builtins
import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from keyferry_firmware.fold import dotted

LIBRARY = ("keyferry_core", "keyferry_agent")
CORE = "keyferry_core"
# What looks for a variable by its name.
_LOOKING = {"eval", "exec", "globals", "locals", "vars"}
# How many short names serve parameters, and then names that a module keeps to itself; the others
# of the same scope stay as they are.
_PARAMETERS = 12
_OWN = 40


@dataclass
class Names:
    """Short names: for the whole image, and by module for what only the module says."""

    everywhere: dict[str, str] = field(default_factory=dict)
    # those of ``everywhere`` that are never variables
    attributes: set[str] = field(default_factory=set)
    own: dict[str, dict[str, str]] = field(default_factory=dict)
    parameters: list[str] = field(default_factory=list)
    # by module, the names of its functions and methods
    functions: dict[str, set[str]] = field(default_factory=dict)

    def originals(self, module: str) -> dict[str, list[str]]:
        """``{short: names in the source}`` of a module's functions, for a line of a traceback."""
        found: dict[str, list[str]] = {}
        for name, short in (self.own.get(module, {}) | self.everywhere).items():
            if name in self.functions.get(module, ()):
                found.setdefault(short, []).append(name)
        return found


def choose(library: dict[str, bytes]) -> Names:
    """The short names for an image, from the folded sources of core and agent alone."""
    trees = {path: ast.parse(text) for path, text in library.items()}
    given = _Shorts(trees.values())
    defined = set().union(*(_private(_defined(tree)) for tree in trees.values()))
    shared = set().union(*(_said_beside_variables(tree) for tree in trees.values()))
    variables = set().union(*(_variables(tree) for tree in trees.values()))
    names = Names(parameters=given.parameters)
    everywhere = sorted(shared & defined)
    names.everywhere = dict(
        zip((name for name in everywhere if name not in variables), given.attributes, strict=False)
    )
    names.attributes = set(names.everywhere)
    rest = given.beside(len(names.everywhere))
    names.everywhere |= dict(
        zip((name for name in everywhere if name in variables), rest, strict=False)
    )
    for path, tree in trees.items():
        own = sorted(_private(_bound_at_top(tree)) - shared)
        names.own[dotted(path)] = dict(zip(own, given.own, strict=False))
        names.functions[dotted(path)] = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
    return names


def shorten(texts: dict[str, bytes], names: Names) -> dict[str, bytes]:
    """``{"package/module.py": source}``, all that an image is made of, with short names.

    ValueError when core or agent look for a variable by its name.
    """
    trees = {path: ast.parse(text) for path, text in texts.items()}
    shared = set().union(*(_said_beside_variables(tree) for tree in trees.values()))
    variables = set().union(*(_variables(tree) for tree in trees.values()))
    texts_said = _texts(trees.values())
    kept = texts_said | _foreign(trees)
    keywords = set().union(*(_keywords(tree) for tree in trees.values()))
    said = {path: set(_identifiers(tree)) for path, tree in trees.items()}
    for path, found in said.items():
        if in_library(path) and (looked := found & _LOOKING):
            raise ValueError(f"{path}: {min(looked)}() finds no names in an image")
    # what else is in the image may have a name already that would be given
    there = set().union(*said.values())
    # an attribute's short name may be a variable's too, so it is for attributes alone
    everywhere = {
        name: short
        for name, short in names.everywhere.items()
        if name not in kept
        and short not in there
        and not (name in names.attributes and name in variables)
    }
    done = {}
    for path, tree in trees.items():
        module = dotted(path)
        if in_library(path):
            taken = texts_said | keywords | _bound_at_top(tree) | set(dir(builtins))
            _Parameters(module, taken, names.parameters).visit(tree)
        own = {
            name: short
            for name, short in names.own.get(module, {}).items()
            if name not in kept and name not in shared
        }
        _Rename(everywhere | own).visit(tree)
        done[path] = ast.unparse(ast.fix_missing_locations(tree)).encode()
    return done


def explain(text: str, names: Names) -> str:
    """``text`` with the sources' names beside the short ones in the lines of tracebacks.

    A method and a function of one module may share a short name: then both are said.
    """

    def add(found: re.Match[str]) -> str:
        originals = names.originals(found[1]).get(found[2])
        return f"{found[0]} ({' or '.join(originals)})" if originals else found[0]

    return re.sub(r'File "([\w.]+)", line \d+, in (\w+)', add, text)


def in_library(path: str) -> bool:
    """Whether ``package/module.py`` is of the core or the agent."""
    return path.startswith(tuple(name + "/" for name in LIBRARY))


class _Shorts:
    """``_0``, ``_1``… ``_Z``, ``_00``…, without those that the library's sources have."""

    def __init__(self, trees: Iterable[ast.Module]) -> None:
        used = {name for tree in trees for name in _identifiers(tree)}
        signs = string.digits + string.ascii_letters
        every = ["_" + sign for sign in signs] + ["_" + a + b for a in signs for b in signs]
        # Attributes are no variables, so those that are nothing else share names with both.
        self.attributes = [short for short in every if short not in used]
        self.parameters = self.attributes[:_PARAMETERS]
        self.own = self.attributes[_PARAMETERS:_OWN]

    def beside(self, count: int) -> list[str]:
        """What no parameter, no module's own name and none of ``count`` attributes has."""
        return self.attributes[max(_OWN, count) :]


def _private(names: Iterable[str]) -> set[str]:
    """Those with one leading underscore and more behind it."""
    return {name for name in names if name.startswith("_") and name[1:2] not in ("", "_")}


def _keywords(tree: ast.AST) -> set[str]:
    return {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}


def _identifiers(tree: ast.AST) -> Iterator[str]:
    """Every name of any kind in a tree."""
    for node in ast.walk(tree):
        for name, value in ast.iter_fields(node):
            if name in ("id", "attr", "arg", "name", "asname", "module") and value:
                yield from value.split(".")
            elif name == "names" and isinstance(node, ast.Global | ast.Nonlocal):
                yield from value


def _texts(trees: Iterable[ast.AST]) -> set[str]:
    """The texts of an image: any of them may be asked for with getattr()."""
    return {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _foreign(trees: dict[str, ast.Module]) -> set[str]:
    """Names of modules, and what is imported from those that are not in the image."""
    inside = {dotted(path) for path in trees}
    found = {part for module in inside for part in module.split(".")}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {part for alias in node.names for part in alias.name.split(".")}
                found |= {alias.asname for alias in node.names if alias.asname}
            elif isinstance(node, ast.ImportFrom) and node.module not in inside:
                found |= {alias.asname or alias.name for alias in node.names}
                found |= {alias.name for alias in node.names}
    return found


def _bound_at_top(tree: ast.AST) -> set[str]:
    """What is bound at a module's top, or declared ``global`` anywhere in it."""
    found = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        stack += ast.iter_child_nodes(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            found |= set(node.names)
    return found


def _defined(tree: ast.AST) -> set[str]:
    """What a module makes: variables at its top, class members, attributes that it sets."""
    found = _bound_at_top(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= _bound_at_top(ast.Module(node.body, []))
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            found.add(node.attr)
    return found


def _said_beside_variables(tree: ast.AST) -> set[str]:
    """Private names that are attributes, class members, keywords, or imported by name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found |= {node.name, node.asname or node.name}
        elif isinstance(node, ast.ClassDef):
            found |= _bound_at_top(ast.Module(node.body, []))
    return _private(found)


def _variables(tree: ast.AST) -> set[str]:
    """Private names that are variables, parameters or functions anywhere, beside class members."""
    members = {
        id(item)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if id(node) not in members:
                found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return _private(found)


class _Rename(ast.NodeTransformer):
    """Puts short names into every place where a name can stand."""

    def __init__(self, short: dict[str, str], attributes: bool = True) -> None:
        self._short = short
        self._attributes = attributes

    def generic_visit(self, node: ast.AST) -> ast.AST:
        fields = ("id", "arg", "name", "asname")
        if self._attributes:
            fields += ("attr",)
        elif isinstance(node, ast.keyword | ast.alias):
            fields = ()
        for name in fields:
            value = getattr(node, name, None)
            if isinstance(value, str):
                setattr(node, name, self._short.get(value, value))
        if isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [self._short.get(name, name) for name in node.names]
        return super().generic_visit(node)


class _Parameters(ast.NodeVisitor):
    """Gives a library's functions short parameters."""

    def __init__(self, module: str, taken: set[str], shorts: list[str]) -> None:
        self._core = module == CORE or module.startswith(CORE + ".")
        self._taken = taken
        self._shorts = shorts
        self._public = True

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self._public = self._public, not node.name.startswith("_")
        for item in node.body:
            self.visit(item)
        self._public = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        own = node.name.startswith("_") and not node.name.startswith("__")
        if self._core or own or not self._public:
            self._shorten(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def _shorten(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        parameters: list[str] = []
        taken = set(self._taken)
        for node in ast.walk(function):
            if isinstance(node, ast.ClassDef):
                return  # its members would look like variables
            if isinstance(node, ast.arg) and node.arg not in parameters:
                parameters.append(node.arg)
            elif isinstance(node, ast.alias):
                taken.add((node.asname or node.name).partition(".")[0])
            elif node is not function and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                taken.add(node.name)
        change = [name for name in parameters if name not in taken and not name.startswith("_")]
        short = dict(zip(change, self._shorts, strict=False))
        # what stands outside the function's own scope: defaults and decorators
        rename = _Rename(short, attributes=False)
        arguments = function.args
        for group in (arguments.posonlyargs, arguments.args, arguments.kwonlyargs):
            for argument in group:
                argument.arg = short.get(argument.arg, argument.arg)
        for argument in (arguments.vararg, arguments.kwarg):
            if argument is not None:
                argument.arg = short.get(argument.arg, argument.arg)
        function.body = [rename.visit(item) for item in function.body]
