"""What ``__init__`` puts into the attributes and buffers of a module, as far as the text of one file shows.

A value is followed through local names, branches, loops, methods of ``self`` and functions of the same file.
Nothing is computed: of a tensor is known where its numbers come from (``Sort``), and not what they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from ckpttool.kinds.source.bodies import Function, iter_statements, read_branch
from ckpttool.kinds.source.expressions import Scope


class Sort(IntEnum):
    """Where numbers come from; of two that are mixed, the greater holds."""

    NOTHING = 0
    NUMBER = 1  # no tensor
    FEW = 2  # a tensor of so few numbers that nobody minds it
    FILLED = 3  # one number, or what was listed
    TABLE = 4  # counted out by the constructor: the same in each build of the same arguments
    RANDOM = 5
    UNKNOWN = 6


class Value(NamedTuple):
    """``is_tensor``: surely a plain tensor of one or more dimensions, on the CPU and without a gradient.

    ``of_tensors``: a list with such in it.
    """

    sort: Sort
    is_tensor: bool = False
    of_tensors: bool = False


_UNKNOWN = Value(Sort.UNKNOWN)
_NUMBER = Value(Sort.NUMBER)

_SIZED = frozenset("zeros ones empty full".split())
_COUNTED = frozenset(
    """
    arange linspace logspace eye tril_indices triu_indices fft.fftfreq fft.rfftfreq hann_window hamming_window
    blackman_window bartlett_window kaiser_window hanning hamming blackman tri
    """.split()
)
_DRAWN = frozenset("rand randn randint randperm normal bernoulli multinomial".split())
_LISTED = frozenset("tensor as_tensor FloatTensor LongTensor IntTensor BoolTensor array asarray".split())
_UNEQUAL = frozenset("tril triu diag diagonal cumsum diag_embed block_diag pad".split())
"""What makes a table of equal numbers."""

_SHAPING = _UNEQUAL | frozenset(
    """
    stack cat concat ones_like zeros_like flip roll unsqueeze squeeze repeat_interleave view_as_real flatten
    reshape transpose permute hstack vstack dstack column_stack tile from_numpy concatenate expand_dims
    meshgrid to float double half bfloat16 int long bool short type view expand repeat clone detach t
    contiguous unfold rearrange reduce requires_grad_ astype copy T mT unbind chunk split movedim swapaxes
    sin cos tan exp exp2 log log2 sqrt rsqrt abs floor ceil round reciprocal square neg sign logical_not
    cartesian_prod combinations sum mean numpy
    """.split()
)
"""Functions and methods of a tensor that make another of it; what else they are given goes not into it."""

_MIXING = frozenset(
    """
    pow outer ger einsum matmul where full_like clamp maximum minimum polar complex logical_and logical_or add
    sub mul div kron power masked_fill index_select eq ne lt gt le ge remainder fmod bitwise_and
    """.split()
)
"""Those that mix all that they are given."""

_REDUCING = frozenset("numpy sum mean meshgrid".split())
"""Those that may make no tensor with dimensions of it."""

_DRAWING = _DRAWN | frozenset("uniform random exponential geometric log_normal cauchy".split())
_NO_NUMBERS = frozenset("device dtype indexing generator".split())
_NUMBERS = frozenset(
    "int float len range max min sum round abs tuple list sorted zip enumerate reversed".split()
)
_OF_TENSORS = frozenset("weight bias data grad".split())  # attributes that are tensors
_COUNTS = frozenset("shape ndim dtype device".split())  # attributes that are none
_PLAIN_TYPES = frozenset(
    "int float bool str tuple list Tuple List Sequence Optional Union Literal None".split()
)
_FEW = 128  # elements: with 8 bytes each the 1 KiB below which CKPT201 of a live model says nothing
_DEEPEST = 40  # of an expression
_DEEPEST_CALL = 4
_MOST_STATEMENTS = 10_000  # of one construction


class Construction:
    """The acts of one ``__init__``: what it leaves in ``self``, with the line of each.

    ``tensors`` are plain tensors by attribute; ``tables`` are persistent buffers by name that were counted
    out, where no flag is written out; ``empty`` are persistent ones of None; ``methods`` were followed.
    """

    def __init__(
        self, scope: Scope, methods: Mapping[str, Function], functions: Mapping[str, Function]
    ) -> None:
        self.tensors: dict[str, int] = {}
        self.tables: dict[str, int] = {}
        self.empty: dict[str, int] = {}
        self.methods: set[str] = set()
        self._scope = scope
        self._own_methods = methods
        self._functions = functions
        self._attributes: dict[str, Value] = {}
        self._left = _MOST_STATEMENTS
        if "__init__" in methods:
            self.methods.add("__init__")
            _Frame(self, methods["__init__"], (), 0).run()

    def dotted(self, node: ast.expr) -> str:
        """``torch.zeros`` for what the file knows by another name, "" for what it does not know."""
        return self._scope.dotted(node) or ""

    def function(self, node: ast.expr) -> Function | None:
        """The method of ``self``, or the function of the file, that is called."""
        if isinstance(node, ast.Name):
            return self._functions.get(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and not self.dotted(node):
            found = self._own_methods.get(node.attr)
            if found is not None:
                self.methods.add(node.attr)
            return found
        return None

    def may_run(self) -> bool:
        """Count a statement; False when there were too many."""
        self._left -= 1
        return self._left >= 0

    def attribute(self, name: str) -> Value:
        """What ``self.NAME`` is."""
        return self._attributes.get(name, _UNKNOWN)

    def set(self, name: str, value: Value, line: int, sure: bool) -> None:
        """``self.NAME = value``."""
        if not sure and name in self._attributes:
            value = value._replace(sort=max(value.sort, self._attributes[name].sort))
        self._attributes[name] = value
        if value.is_tensor:
            self.tensors.setdefault(name, line)
        elif sure:
            self.tensors.pop(name, None)

    def mix(self, name: str, sort: Sort) -> None:
        """Write into what ``self.NAME`` is."""
        if name in self._attributes:
            found = self._attributes[name]
            self._attributes[name] = found._replace(sort=max(found.sort, sort))


class _Frame:
    """One call of a function: its names, statement by statement."""

    def __init__(
        self, construction: Construction, function: Function, given: Sequence[tuple[str, Value]], depth: int
    ) -> None:
        self._made = construction
        self._function = function
        self._depth = depth
        self._names: dict[str, Value] = {}
        self._bind_arguments(given)

    def _bind_arguments(self, given: Sequence[tuple[str, Value]]) -> None:
        """Of each argument: what was given, else its default, else what its annotation says."""
        arguments = self._function.args
        every = [*arguments.posonlyargs, *arguments.args]
        static = any(getattr(item, "id", "") == "staticmethod" for item in self._function.decorator_list)
        is_method = bool(every) and every[0].arg in ("self", "cls") and not static
        own = every[0].arg if is_method else ""
        places = [item.arg for item in every if item.arg != own]
        defaults = dict(
            zip(reversed([item.arg for item in every]), reversed(arguments.defaults), strict=False)
        )
        defaults |= {
            item.arg: value
            for item, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if value is not None
        }
        self._own = own
        for item in (*every, *arguments.kwonlyargs):
            plain = _is_plain(item.annotation) or isinstance(
                defaults.get(item.arg), (ast.Constant, ast.Tuple)
            )
            told = "Tensor" in ast.dump(item.annotation) if item.annotation is not None else False
            unsaid = item.annotation is None and item.arg != own
            self._names[item.arg] = _NUMBER if (plain or unsaid) and not told else _UNKNOWN
        for at, (name, value) in enumerate(given):
            if name or at < len(places):
                self._names[name or places[at]] = value

    def run(self) -> Value:
        """Run the statements; what is returned."""
        returned: list[Value] = []
        for statement, when in iter_statements(self._function.body, read_branch):
            if not self._made.may_run():
                return _UNKNOWN
            sure = not when
            if isinstance(statement, ast.Assign):
                value = self._value(statement.value)
                for target in statement.targets:
                    self._assign(target, value, sure)
            elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
                self._assign(statement.target, self._value(statement.value), sure)
            elif isinstance(statement, ast.AugAssign):
                self._mix(statement.target, self._value(statement.value).sort)
            elif isinstance(statement, (ast.For, ast.AsyncFor)):
                self._assign(statement.target, self._value(statement.iter)._replace(is_tensor=False), True)
            elif isinstance(statement, ast.Return) and statement.value is not None:
                returned.append(self._value(statement.value))
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                self._act(statement.value, sure)
        if not returned:
            return _UNKNOWN
        return Value(max(item.sort for item in returned), all(item.is_tensor for item in returned))

    # ------------------------------------------------------------------------------------- statements

    def _assign(self, target: ast.expr, value: Value, sure: bool) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for item in target.elts:
                self._assign(item, value, sure)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, value._replace(is_tensor=False), sure)
        elif isinstance(target, ast.Subscript):
            self._mix(target, max(value.sort, Sort.TABLE))  # no longer one number
        elif isinstance(target, ast.Name):
            if not sure and target.id in self._names:
                value = value._replace(sort=max(value.sort, self._names[target.id].sort))
            self._names[target.id] = value
        elif (name := self._attribute_name(target)) is not None:
            self._made.set(name, value, target.lineno, sure)

    def _attribute_name(self, node: ast.expr) -> str | None:
        is_own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and self._own
        return node.attr if is_own and node.value.id == self._own else None  # type: ignore[attr-defined]

    def _mix(self, target: ast.expr, sort: Sort) -> None:
        """Something more is put into what a name stands for."""
        while isinstance(target, ast.Subscript):
            target = target.value
        if isinstance(target, ast.Name) and target.id in self._names:
            found = self._names[target.id]
            # What is written into a tensor of few numbers makes no large one of it.
            sort = found.sort if found.sort == Sort.FEW and sort <= Sort.TABLE else max(found.sort, sort)
            self._names[target.id] = found._replace(sort=sort)
        elif (name := self._attribute_name(target)) is not None:
            self._made.mix(name, sort)

    def _act(self, node: ast.Call, sure: bool) -> None:
        """A call whose value nobody takes: it registers, writes, or runs another method."""
        function = node.func
        last = function.attr if isinstance(function, ast.Attribute) else ""
        if last == "register_buffer" and self._attribute_name(function) is not None:
            self._register(node, sure)
        elif last.endswith("_") and self._made.dotted(function):  # nn.init.normal_(x)
            for item in node.args[:1]:
                self._mix(item, Sort.UNKNOWN)
        elif last.endswith("_") and not last.endswith("__") and isinstance(function, ast.Attribute):
            plain = last.removesuffix("_")
            sort = Sort.RANDOM if plain in _DRAWING else Sort.TABLE if plain in _UNEQUAL else Sort.NOTHING
            mixed = self._mixed(node.args if plain not in _SHAPING else (), 0).sort
            self._mix(function.value, max(sort, mixed))
        elif self._made.function(function) is not None:
            self._value(node)
        else:  # who is given a tensor may write into it
            for item in node.args:
                self._mix(item, Sort.UNKNOWN if self._value(item).is_tensor else Sort.NOTHING)

    def _register(self, node: ast.Call, sure: bool) -> None:
        given = dict(zip(("name", "tensor", "persistent"), node.args, strict=False))
        given |= {word.arg: word.value for word in node.keywords if word.arg}
        is_whole = not any(word.arg is None for word in node.keywords) and {"name", "tensor"} <= given.keys()
        if not is_whole or not isinstance(given["name"], ast.Constant):
            return
        name, value = str(given["name"].value), self._value(given["tensor"])
        is_persistent = "persistent" not in given or getattr(given["persistent"], "value", None) is True
        if _is_none(given["tensor"]) and is_persistent:
            self._made.empty.setdefault(name, node.lineno)
        elif sure:
            self._made.empty.pop(name, None)
        self._made.set(name, value._replace(is_tensor=False), node.lineno, True)
        if value.sort == Sort.TABLE and "persistent" not in given:
            self._made.tables[name] = node.lineno
        else:
            self._made.tables.pop(name, None)

    # ----------------------------------------------------------------------------------------- values

    def _value(self, node: ast.expr | None, depth: int = 0) -> Value:
        if node is None:
            return Value(Sort.NOTHING)
        if depth > _DEEPEST:
            return _UNKNOWN
        if isinstance(node, ast.Constant):
            return _NUMBER
        if isinstance(node, ast.Name):
            return self._names.get(node.id, _NUMBER if node.id.isupper() else _UNKNOWN)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, depth)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            for part in node.generators:
                self._assign(part.target, self._value(part.iter, depth + 1)._replace(is_tensor=False), True)
            return self._value(node.elt, depth + 1)._replace(is_tensor=False)
        if isinstance(node, ast.Subscript):
            found = self._value(node.value, depth + 1)
            is_part = isinstance(node.slice, (ast.Slice, ast.Tuple)) or _is_none(node.slice)
            inside = self._value(node.slice, depth + 1).sort
            return Value(max(found.sort, inside), found.is_tensor and is_part)
        if isinstance(node, ast.BinOp):
            return self._mixed((node.left, node.right), depth)
        if isinstance(node, ast.UnaryOp):
            return self._mixed((node.operand,), depth)
        if isinstance(node, ast.Compare):
            return self._mixed((node.left, *node.comparators), depth)
        if isinstance(node, ast.IfExp):
            one, two = self._value(node.body, depth + 1), self._value(node.orelse, depth + 1)
            return Value(max(one.sort, two.sort), one.is_tensor and two.is_tensor)
        if isinstance(node, (ast.BoolOp, ast.Tuple, ast.List, ast.Slice, ast.Starred)):
            parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
            mixed = self._mixed(parts, depth)
            return Value(mixed.sort, False, mixed.is_tensor and isinstance(node, (ast.Tuple, ast.List)))
        return _UNKNOWN

    def _mixed(self, nodes: Iterable[ast.expr], depth: int) -> Value:
        return _mix([self._value(node, depth + 1) for node in nodes])

    def _attribute(self, node: ast.Attribute, depth: int) -> Value:
        name = self._attribute_name(node)
        if name is not None:
            return self._made.attribute(name)
        dotted = self._made.dotted(node)
        if dotted:
            return _NUMBER if dotted.partition(".")[0] in ("torch", "math", "numpy") else _UNKNOWN
        if node.attr in _COUNTS:
            return _NUMBER
        owner = self._value(node.value, depth + 1)
        if node.attr in ("T", "mT", "real", "imag"):
            return owner
        of_tensor = node.attr in _OF_TENSORS or Sort.NUMBER < owner.sort < Sort.UNKNOWN
        return _UNKNOWN if of_tensor else _NUMBER  # config.hidden_size

    def _call(self, node: ast.Call, depth: int) -> Value:
        function = node.func
        dotted = self._made.dotted(function)
        top, _, name = dotted.partition(".")
        if top in ("torch", "numpy", "einops"):
            return self._creation(node, name.removeprefix("nn.functional."), top != "numpy", depth)
        if top == "math" or (isinstance(function, ast.Name) and function.id in _NUMBERS):
            return self._mixed(node.args, depth)._replace(is_tensor=False)
        called = self._made.function(function)
        if called is not None:
            return self._enter(called, node, depth)
        if isinstance(function, ast.Attribute) and not dotted:
            owner = self._value(function.value, depth + 1)
            if owner.is_tensor or Sort.NUMBER < owner.sort < Sort.UNKNOWN:
                return self._method(node, owner, function.attr, depth)
        return _UNKNOWN

    def _method(self, node: ast.Call, owner: Value, name: str, depth: int) -> Value:
        plain = name.removesuffix("_")
        if plain not in _SHAPING | _MIXING:
            drawn = plain in _DRAWING and name.endswith("_")
            return owner._replace(sort=Sort.RANDOM) if drawn else _UNKNOWN
        mixed = self._mixed(node.args if plain in _MIXING else (), depth)
        given = [*node.args, *(word.value for word in node.keywords)]
        moved = plain in ("to", "type") and any("device" in ast.dump(item) for item in given)
        sort = Sort.TABLE if plain in _UNEQUAL and owner.sort == Sort.FILLED else owner.sort
        return Value(max(sort, mixed.sort), owner.is_tensor and not moved and plain not in _REDUCING)

    def _creation(self, node: ast.Call, name: str, by_torch: bool, depth: int) -> Value:
        """What a function of torch or numpy makes."""
        words = {word.arg: word.value for word in node.keywords}
        given = [*node.args, *(value for key, value in words.items() if key not in _NO_NUMBERS)]
        values = [self._value(item, depth + 1) for item in given]  # once: what is nested is asked in turn
        mixed = _mix(values)
        plain = by_torch and words.keys().isdisjoint(("device", "requires_grad", None))
        if name in _DRAWN or name.startswith("random."):
            return Value(Sort.RANDOM, plain and name in _DRAWN - {"normal", "bernoulli"})
        if name in _SIZED or name in _COUNTED:
            first = node.args[0] if node.args else words.get("size")
            sized = first is not None and not (isinstance(first, (ast.Tuple, ast.List)) and not first.elts)
            sort = Sort.FEW if _is_few(given) else Sort.FILLED if name in _SIZED else Sort.TABLE
            return Value(Sort.RANDOM if mixed.sort == Sort.RANDOM else sort, plain and sized)
        if name in _LISTED:
            first = node.args[0] if node.args else None
            is_list = isinstance(first, (ast.List, ast.Tuple))
            sort = Sort.FEW if is_list else Sort.TABLE if _counts(first) else Sort.FILLED
            return Value(max(sort, mixed.sort), plain and (is_list or isinstance(first, ast.ListComp)))
        if name == "from_numpy":
            return mixed._replace(is_tensor=plain)
        if name in _SHAPING | _MIXING:
            found = mixed if name in _MIXING else _mix(values[:1])
            sort = Sort.TABLE if name in _UNEQUAL and found.sort == Sort.FILLED else found.sort
            is_tensor = plain and (found.is_tensor or found.of_tensors)
            return Value(sort, is_tensor and name not in _REDUCING, is_tensor and name == "meshgrid")
        return _UNKNOWN

    def _enter(self, function: Function, node: ast.Call, depth: int) -> Value:
        if self._depth >= _DEEPEST_CALL:
            return _UNKNOWN
        given = [("", self._value(item, depth + 1)) for item in node.args]
        given += [(word.arg, self._value(word.value, depth + 1)) for word in node.keywords if word.arg]
        return _Frame(self._made, function, given, self._depth + 1).run()


def _mix(values: Sequence[Value]) -> Value:
    """What an operation makes of these: a tensor, if one of them is."""
    return Value(
        max((value.sort for value in values), default=Sort.NOTHING),
        any(value.is_tensor for value in values),
        any(value.of_tensors for value in values),
    )


def _is_plain(annotation: ast.expr | None) -> bool:
    """Whether all that an annotation names are numbers, strings and lists of them."""
    names = [node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)] if annotation else []
    return bool(names) and _PLAIN_TYPES.issuperset(names)


def _is_few(sizes: Sequence[ast.expr]) -> bool:
    """Whether all sizes are written out, and small."""
    count = 1
    flat = [
        item for size in sizes for item in (size.elts if isinstance(size, (ast.Tuple, ast.List)) else [size])
    ]
    for item in flat:
        if not isinstance(item, ast.Constant) or not isinstance(item.value, (int, float)):
            return False
        count *= max(1, int(abs(item.value))) if abs(item.value) <= _FEW else _FEW + 1
    return bool(flat) and count <= _FEW


def _counts(node: ast.AST | None) -> bool:
    """Whether a list is made by counting: ``[f(i) for i in range(n)]``."""
    over = node.generators[0].iter if isinstance(node, ast.ListComp) else None
    return isinstance(over, ast.Call) and isinstance(over.func, ast.Name) and over.func.id == "range"


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
