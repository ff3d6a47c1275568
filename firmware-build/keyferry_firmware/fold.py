"""Puts the numbers that have names into the places where the names stand, before compilation.

On a device a named number costs heap three times: for its name, for the entry in its module, and
for the import of either wherever it is used. Here ``s.TYPE`` and ``MAX_DATA`` become ``1`` and
``8192`` in the image, and the definitions that nothing asks for any more go, as do the branches
that a device never enters (``TYPE_CHECKING``, ``CPYTHON``). Nothing else is changed.

Only what is certain is touched: a name that is bound once in its module, at its top, to a small
integer. Everything that an image is made of must be given at once, its application included: code
from elsewhere finds the public names of the agent and of ``iana``, and those of the core that are
not plain numbers.
"""

import ast
from dataclasses import dataclass, field

# False on a device, wherever they come from.
NEVER = ("TYPE_CHECKING", "CPYTHON")
# Here public numbers keep their names, for code that comes to the device later.
OPEN = ("keyferry_agent", "keyferry_core.iana", "main")
# A larger one is an object, which one name shares better (boards' small integers have 31 bits).
LARGEST = (1 << 30) - 1


@dataclass
class Module:
    """One source file of the image, by its import path."""

    name: str
    tree: ast.Module
    constants: dict[str, int] = field(default_factory=dict)


def fold(sources: dict[str, bytes], everything: bool = False) -> dict[str, bytes]:
    """``{"package/module.py": source}`` with numbers in place of their names.

    ``everything``: let all public names stay, for code that is not among ``sources``.
    """
    modules = {path: Module(dotted(path), ast.parse(text)) for path, text in sources.items()}
    by_name = {module.name: module for module in modules.values()}
    for module in modules.values():
        module.tree = ast.fix_missing_locations(_Branches().visit(module.tree))
    changed = set().union(*(_attributes_set(module.tree) for module in by_name.values()))
    # Constants are made of constants of other modules: again until nothing new is found.
    found = -1
    while found != sum(len(module.constants) for module in by_name.values()):
        found = sum(len(module.constants) for module in by_name.values())
        for module in by_name.values():
            _collect(module, by_name, changed)
    for module in by_name.values():
        module.tree = _Numbers(module, by_name).visit(module.tree)
    for module in by_name.values():
        _drop_imports(module, by_name)
    asked = _asked_for(by_name)
    for module in by_name.values():
        _drop_definitions(module, asked, everything or _is_open(module.name))
    return {
        path: ast.unparse(ast.fix_missing_locations(module.tree)).encode()
        for path, module in modules.items()
    }


def dotted(path: str) -> str:
    """The import path of ``package/module.py``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _is_open(name: str) -> bool:
    return any(name == path or name.startswith(path + ".") for path in OPEN)


class _Branches(ast.NodeTransformer):
    """Leaves out what stands under a condition that is False on every device."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        test, negated = node.test, False
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test, negated = test.operand, True
        if isinstance(test, ast.Name) and test.id in NEVER:
            return (node.body if negated else node.orelse) or ast.Pass()
        return node


def _bound(tree: ast.AST) -> dict[str, int]:
    """How often each name is bound anywhere in a module: by assignment, import, definition…"""
    times: dict[str, int] = {}

    def bind(name: str) -> None:
        times[name] = times.get(name, 0) + 1

    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bind(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bind(node.name)
        elif isinstance(node, ast.arg):
            bind(node.arg)
        elif isinstance(node, ast.alias):
            bind(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bind(node.name)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            for name in node.names:
                bind(name)
    return times


def _attributes_set(tree: ast.AST) -> set[str]:
    """Names that something assigns as an attribute, perhaps of a module."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
    }


def _aliases(module: Module, modules: dict[str, Module]) -> dict[str, str]:
    """``{name here: import path}`` of the image's modules that are bound to one name each."""
    found: dict[str, set[str]] = {}
    times: dict[str, int] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                name, path = alias.asname or alias.name, f"{node.module}.{alias.name}"
                times[name] = times.get(name, 0) + 1
                if path in modules:
                    found.setdefault(name, set()).add(path)
    bound = _bound(module.tree)
    return {
        name: paths.pop()
        for name, paths in found.items()
        if len(paths) == 1 and bound[name] == times[name]
    }


def _imported(module: Module, modules: dict[str, Module]) -> dict[str, int]:
    """Numbers that a module takes from others by ``from … import NAME``."""
    bound = _bound(module.tree)
    found = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module in modules and not node.level:
            constants = modules[node.module].constants
            for alias in node.names:
                name = alias.asname or alias.name
                if alias.name in constants and bound[name] == 1:
                    found[name] = constants[alias.name]
    return found


def _collect(module: Module, modules: dict[str, Module], changed: set[str]) -> None:
    """Find the module's own constants, as far as they can be known by now."""
    bound = _bound(module.tree)

    def once(name: str) -> bool:
        return bound[name] == 1 and name not in changed

    known = {**_imported(module, modules), **module.constants}
    for node in module.tree.body:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target = node.targets[0]
        if isinstance(target, ast.Name):
            value = _number(node.value, known)
            if value is not None and once(target.id):
                known[target.id] = module.constants[target.id] = value
        elif isinstance(target, ast.Tuple):
            count = _range(node.value)
            names = [item.id for item in target.elts if isinstance(item, ast.Name)]
            if count == len(names) == len(target.elts) and all(once(name) for name in names):
                for value, name in enumerate(names):
                    known[name] = module.constants[name] = value


def _range(node: ast.expr) -> int | None:
    """n of ``range(n)``."""
    match node:
        case ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int(count))]):
            return count
    return None


_OPERATIONS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.LShift: lambda a, b: a << b,
    ast.BitOr: lambda a, b: a | b,
}


def _number(node: ast.expr, known: dict[str, int]) -> int | None:
    """The small integer that an expression of constants is, or None."""
    value = None
    if isinstance(node, ast.Constant) and type(node.value) is int:
        value = node.value
    elif isinstance(node, ast.Name):
        value = known.get(node.id)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand, known)
        value = None if inner is None else -inner
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _number(node.left, known), _number(node.right, known)
        if left is not None and right is not None:
            value = _OPERATIONS[type(node.op)](left, right)
    return value if value is not None and abs(value) <= LARGEST else None


def _literal(value: int) -> ast.expr:
    if value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


class _Numbers(ast.NodeTransformer):
    """Puts numbers where their names are read."""

    def __init__(self, module: Module, modules: dict[str, Module]) -> None:
        self._values = {**_imported(module, modules), **module.constants}
        self._aliases = _aliases(module, modules)
        self._modules = modules

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self._values:
            return _literal(self._values[node.id])
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and isinstance(node.value, ast.Name):
            path = self._aliases.get(node.value.id)
            if path is not None and node.attr in self._modules[path].constants:
                return _literal(self._modules[path].constants[node.attr])
        self.generic_visit(node)
        return node


def _reads(tree: ast.AST) -> set[str]:
    """Names that are read anywhere in a module, annotations aside: a device drops those."""
    found = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns"):
                items = value if isinstance(value, list) else [value]
                stack += [item for item in items if isinstance(item, ast.AST)]
    return found


def _drop_imports(module: Module, modules: dict[str, Module]) -> None:
    """Leave out imports from the image that nothing reads any more."""
    reads = _reads(module.tree)

    class Imports(ast.NodeTransformer):
        def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
            inside = node.module in modules or f"{node.module}.{node.names[0].name}" in modules
            if inside:
                node.names = [n for n in node.names if (n.asname or n.name) in reads]
            return node if node.names else None

    module.tree = Imports().visit(module.tree)


def _asked_for(modules: dict[str, Module]) -> set[str]:
    """Every name that anything in the image might still ask some module for."""
    asked = set()
    for module in modules.values():
        asked |= _reads(module.tree)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom):
                asked |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                asked.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                asked.add(node.value)  # what getattr() may be given
    return asked


def _drop_definitions(module: Module, asked: set[str], keep: bool) -> None:
    """Leave out the definitions of numbers that nothing asks for; ``keep``: public ones stay."""

    def dropped(name: str) -> bool:
        if name in asked or (keep and not name.startswith("_")):
            return False
        return name in module.constants or name == "TYPE_CHECKING"

    def needed(node: ast.stmt) -> bool:
        if isinstance(node, ast.Pass):
            return False  # what a branch left
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            return True
        target = node.targets[0]
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        return not all(isinstance(item, ast.Name) and dropped(item.id) for item in names)

    module.tree.body = [node for node in module.tree.body if needed(node)]
