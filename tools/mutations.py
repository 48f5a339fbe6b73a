"""Small faults that a test should see: one change each to the syntax tree of a module."""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

FunctionDef: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Div: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Mutant(NamedTuple):
    """One fault: ``holder[key] = new`` in the tree of its module."""

    ident: str
    """The same as long as its function, its line and the fault are; line numbers do not count."""
    module: str
    place: str
    """The qualified name of the function; "" where it is a line that runs at import."""
    line: int
    change: str
    lines: range
    """Lines that a test must run to have met it."""
    function: tuple[str, int]
    """Name and first line of the outermost function around it; ("", 0) where there is none."""
    holder: Any
    key: Any
    new: ast.AST | list[ast.expr]


class _Place(NamedTuple):
    """Where the walk is."""

    qualname: tuple[str, ...] = ()
    function: tuple[str, int] = ("", 0)
    scope: FunctionDef | None = None
    statement: ast.stmt | None = None


def find_mutants(module: str, path: Path, text: str, tree: ast.Module) -> list[Mutant]:
    """Every fault of this module, in the order of its lines."""
    lines = text.splitlines()
    seen: Counter[str] = Counter()
    found = []
    for holder, key, new, place in _walk(tree, _Place()):
        old = holder[key]
        if isinstance(old, list):  # the conditions of a comprehension
            line, end = old[0].lineno, old[-1].end_lineno
        else:
            line, end = old.lineno, old.end_lineno
        change = f"{_text(old)} -> {_text(new)}"
        qualname = ".".join(place.qualname)
        text = f"{module}|{qualname}|{lines[line - 1].strip()}|{change}"
        seen[text] += 1
        ident = hashlib.sha1(f"{text}|{seen[text]}".encode(), usedforsecurity=False).hexdigest()[:10]
        statement = place.statement.lineno if place.statement is not None else line
        start = statement if isinstance(place.statement, _SIMPLE) else line
        met = range(start, (end or line) + 1)
        found.append(Mutant(ident, module, qualname, line, change, met, place.function, holder, key, new))
    return found


_SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return, ast.Raise, ast.Delete, ast.Assert)


def _text(node: ast.AST | list[ast.expr]) -> str:
    text = " if ".join(map(ast.unparse, node)) if isinstance(node, list) else ast.unparse(node)
    return " ".join(text.split())


def mutate(mutant: Mutant, tree: ast.Module) -> ast.Module:
    """A copy of ``tree``, which the mutant was found in, that has the fault."""
    old = mutant.holder[mutant.key]
    mutant.holder[mutant.key] = mutant.new
    try:
        return ast.fix_missing_locations(copy.deepcopy(tree))
    finally:
        mutant.holder[mutant.key] = old


def _walk(node: ast.AST, place: _Place) -> Iterator[tuple[Any, Any, Any, _Place]]:
    """(holder, key, new node, place) of all faults in ``node``."""
    if isinstance(node, FunctionDef):
        first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
        inner = place._replace(qualname=(*place.qualname, node.name), scope=node)
        if not place.function[0]:
            inner = inner._replace(function=(node.name, first))
    elif isinstance(node, ast.ClassDef):
        inner = place._replace(qualname=(*place.qualname, node.name))
    else:
        inner = place
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "names"):
            continue
        if isinstance(node, FunctionDef) and field == "args":  # defaults are worked out at import
            yield from _walk(value, place)
            continue
        places: list[tuple[Any, Any]] = []
        if isinstance(value, list):
            if isinstance(node, ast.comprehension) and field == "ifs" and value:
                yield vars(node), "ifs", [], inner
            places = [(value, index) for index in range(len(value))]
        elif isinstance(value, ast.AST):
            places = [(vars(node), field)]
        for holder, key in places:
            child = holder[key]
            if not isinstance(child, ast.AST) or _left_alone(node, child):
                continue
            below = inner._replace(statement=child) if isinstance(child, ast.stmt) else inner
            sole = isinstance(node, ast.If) and len(node.body) == 1 and child is node.body[0]
            for new in _faults(child, field, below):
                if sole and isinstance(new, ast.Pass):
                    continue  # as good as a condition that is false
                yield holder, key, ast.copy_location(new, child), below
            yield from _walk(child, below)


def _left_alone(parent: ast.AST, node: ast.AST) -> bool:
    """What says nothing when it runs, or only checks the code itself (``strict`` of zip)."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.annotation) == "TypeAlias"
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _faults(node: ast.AST, field: str, place: _Place) -> Iterator[ast.AST]:
    """What could stand in the place of ``node``; not what another of these faults implies."""
    if field == "test" and not isinstance(node, ast.Constant):
        if not (isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or)):
            yield ast.Constant(False)
        if not (isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And)):
            yield ast.Constant(True)
    match node:
        case ast.Compare(left, ops, comparators):
            for index, op in enumerate(ops):
                if field == "test" and type(op) not in _ORDER:
                    continue
                yield ast.Compare(left, [*ops[:index], _COMPARE[type(op)](), *ops[index + 1 :]], comparators)
        case ast.BoolOp(op, values):
            for index in range(len(values)):
                rest = values[:index] + values[index + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand) if field != "test":
            yield operand
        case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
            yield ast.BinOp(left, _ARITHMETIC[type(op)](), right)
        case ast.AugAssign(target, op, value):
            yield ast.Pass()
            if type(op) in _ARITHMETIC:
                yield ast.AugAssign(target, _ARITHMETIC[type(op)](), value)
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.Call(ast.Name(name), args, keywords) if name in _CALLS:
            yield ast.Call(ast.Name(_CALLS[name], ast.Load()), args, keywords)
        case ast.Call(function, [first, second, *rest], keywords) if _interchangeable(first, second, place):
            if ast.unparse(function) not in ("isinstance", "cast"):
                yield ast.Call(function, [second, first, *rest], keywords)
        case ast.Slice(lower, upper, step):
            if lower is not None:
                yield ast.Slice(None, upper, step)
            if upper is not None:
                yield ast.Slice(lower, None, step)
                if not isinstance(upper, ast.Constant):
                    yield ast.Slice(lower, ast.BinOp(upper, ast.Add(), ast.Constant(1)), step)
        case ast.Name(name, ast.Load()) if place.scope is not None and field != "func":
            if other := _other_name(name, node.lineno, place.scope):
                yield ast.Name(other, ast.Load())
        case ast.Raise() | ast.Expr(ast.Call()) | ast.Delete() | ast.Break() | ast.Continue():
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Return(value) if value is not None and not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))


def _other_name(name: str, line: int, scope: FunctionDef) -> str:
    """A variable of the same function that could be taken for this one, or ""."""
    types, stored, beside = _variables(scope)
    if name not in types and stored.get(name, line + 1) > line:
        return ""
    best = (0.5, "")
    for other in {*types, *(other for other, at in stored.items() if at <= line)} - {name}:
        together = other in beside[name]
        if types.get(name) == types.get(other) and other.rstrip("s") != name.rstrip("s"):
            alike = SequenceMatcher(None, name, other).ratio() + together + (name in types)
            best = max(best, (alike, other))
    return best[1]


def _interchangeable(first: ast.expr, second: ast.expr, place: _Place) -> bool:
    """Whether two arguments could be taken for each other, as far as their looks tell."""
    if type(first) is not type(second) or ast.dump(first) == ast.dump(second) or place.scope is None:
        return False
    if isinstance(first, ast.Name) and isinstance(second, ast.Name):
        types = _variables(place.scope)[0]
        return types.get(first.id) == types.get(second.id)
    return not isinstance(first, ast.Starred | ast.Lambda | ast.GeneratorExp)


@functools.cache
def _variables(scope: FunctionDef) -> tuple[dict[str, str], dict[str, int], defaultdict[str, set[str]]]:
    """Types of the arguments, first line of each variable, and what is assigned together with it."""
    arguments = [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]
    types = {item.arg: ast.unparse(item.annotation) for item in arguments if item.annotation}
    stored: dict[str, int] = {}
    beside: defaultdict[str, set[str]] = defaultdict(set)
    for node in ast.walk(scope):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            stored[node.id] = min(node.lineno, stored.get(node.id, node.lineno))
        elif isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Store):
            together = {item.id for item in node.elts if isinstance(item, ast.Name)}
            for name in together:
                beside[name] |= together
    return types, stored, beside
