"""The words of every room: names made harmless, counts, sizes, shapes, paths, values, lists cut short.

``safe`` is the only function that lets a string from a file reach a stream. It is idempotent, so
that a sentence may be built from safe pieces and made safe again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ckpttool.values.checkpoint import Key, OddKey, Plain, Root

T = TypeVar("T")

NAME_LIMIT = 200
"""Characters of a name that a person is shown; the rest is counted."""

VALUE_LIMIT = 60
"""Characters of a plain value in a line for people."""

# `str.isprintable` is false for control and format characters (bidi, zero-width), line and paragraph
# separators, lone surrogates, private use and unassigned ones. These are printable to Python and yet leave no
# ink: the rest of Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt, 16.0).
_INKLESS = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
# Compiled when a text first needs them: most runs meet none.
_SUSPECT = f"[^ -~\u00a1-\u00ac\u00ae-\u02ff]|[{_INKLESS}]"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

# Above this many bits an int is shown by its magnitude: `str` of one beyond 4300 digits raises ValueError
# (sys.set_int_max_str_digits), and nobody reads the digits.
_INT_BITS = 128


def safe(text: str, limit: int | None = None) -> str:
    r"""Return ``text`` without a character that could move, hide or forge output.

    C0, C1, DEL, bidi controls, separators, zero-width characters and lone surrogates become
    ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``. Beyond ``limit`` characters the rest is cut and the
    length noted: ``…(1048576 chars)``.
    """
    if limit is not None and len(text) > limit:
        return f"{safe(text[:limit])}…({len(text)} chars)"
    if text.isascii() and text.isprintable():
        return text
    return re.sub(_SUSPECT, _escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable() and not re.match(f"[{_INKLESS}]", character):
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def format_int(value: int) -> str:
    """Return decimal digits, or the magnitude of an int too long to read: ``2^99999 (100000 bits)``."""
    if value.bit_length() <= _INT_BITS:
        return str(value)
    sign = "-" if value < 0 else ""
    return f"{sign}~2^{value.bit_length() - 1} ({value.bit_length()} bits)"


def format_count(value: int) -> str:
    """Return a count with thousands separators: ``412,525``."""
    return f"{value:,}" if value.bit_length() <= _INT_BITS else format_int(value)


def format_magnitude(value: int, about: str = "about ") -> str:
    """Return ``about 6.74 B`` for a large count, all digits of one below a million."""
    for power, unit in ((12, "T"), (9, "B"), (6, "M")):
        if value >= 10**power:
            # In hundredths, rounded: an int may be beyond what a float holds.
            scaled = (value + 5 * 10 ** (power - 3)) // 10 ** (power - 2)
            digits = f"{scaled / 100:.3g}" if scaled < 99_950 else format_count(scaled // 100)
            return f"{about}{digits} {unit}"
    return format_count(value)


def plural(count: int, noun: str, many: str = "") -> str:
    """Return ``1 tensor`` or ``2 entries``; ``many`` is the plural of what is more than one noun."""
    if count != 1:
        noun = many or _plural_of(noun)
    return f"{format_count(count)} {noun}"


def _plural_of(noun: str) -> str:
    if noun.endswith("ry"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("ch", "sh", "s", "x")) else f"{noun}s"


def agree(count: int, one: str, many: str) -> str:
    """Return the word that goes with a count: ``is`` with 1, ``are`` with 0 and with 2."""
    return one if count == 1 else many


def quote(word: str) -> str:
    r"""``word`` as one types it in a shell: on one line, and with no mark that hides or moves.

    What ``safe`` would escape stands as bytes in ``$'...'``, which bash, zsh and ksh know.
    """
    import os
    import shlex

    if safe(word) == word and "`" not in word:  # which ends a command in a sentence
        return shlex.quote(word)
    data = os.fsencode(word.encode("utf-8", "surrogatepass") if not _is_encodable(word) else word)
    plain = [chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\`" else f"\\x{byte:02x}" for byte in data]
    return f"$'{''.join(plain)}'"


def _is_encodable(word: str) -> bool:
    try:
        word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def command_line(*words: str) -> str:
    """A command of this program, as one types it in a shell."""
    return " ".join(["ckpttool", *map(quote, words)])


def typed(path: str) -> str:
    """Return the path as it can be typed: one that begins with a dash is no option."""
    return f"./{path}" if path.startswith("-") else path


def inspect_command(path: str, *options: str) -> str:
    """The command that shows ``path``, as it stands in a sentence."""
    return f"`{command_line('inspect', typed(path), *options)}`"


def indefinite(noun: str) -> str:
    """Return ``a list`` or ``an int``: what a name is, as it is spelled."""
    return f"{'an' if noun[:1].lower() in 'aeiou' and noun else 'a'} {noun}"


def format_shape(shape: tuple[int, ...] | None, limit: int = 8) -> str:
    """Return ``94×64``; ``()`` for a scalar, ``?`` if unsaid; more than ``limit`` dims are counted."""
    if shape is None:
        return "?"
    if not shape:
        return "()"
    if len(shape) > limit:
        head = "×".join(map(format_int, shape[: limit - 2]))
        return f"{head}×…×{format_int(shape[-1])} ({len(shape)} dims)"
    return "×".join(map(format_int, shape))


def format_nbytes(nbytes: int) -> str:
    """Return bytes for people, three digits: ``512 B``, ``23.5 KiB``, ``4.64 MiB``, ``1.21 GiB``."""
    if nbytes < 1024:
        return f"{nbytes} B"
    if nbytes.bit_length() > _INT_BITS:
        return f"{format_int(nbytes)} B"
    size = float(nbytes)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):  # noqa: B007
        size /= 1024
        # 1023.95 would round to 1024.0 in the smaller unit.
        if size < 999.95:
            break
    digits = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{size:,.{digits}f} {unit}"


def format_float(value: float) -> str:
    """Return six significant digits: ``0.0731``, ``1e-08``, ``nan``, ``3.0``."""
    text = f"{value:.6g}"
    return text if not text.lstrip("-").isdigit() else f"{text}.0"


def format_number(value: int | float) -> str:
    """Return all digits of an int, six significant ones of a float."""
    return format_int(value) if isinstance(value, int) else format_float(value)


def format_key(key: Key) -> str:
    """Return one key as a step behind a path: ``.name``, ``[0]`` or ``["a.b"]``."""
    if isinstance(key, str):
        if _IDENTIFIER.fullmatch(key):
            return f".{safe(key, NAME_LIMIT)}"
        quoted = key[:NAME_LIMIT].replace("\\", "\\\\").replace('"', '\\"')
        cut = f"…({len(key)} chars)" if len(key) > NAME_LIMIT else ""
        return f'["{safe(quoted)}{cut}"]'
    if isinstance(key, OddKey):
        return f"[{safe(key.text, NAME_LIMIT)}]"
    return f"[{format_int(key)}]"


def format_root(root: Root) -> str:
    """Return a path of container keys: ``optimizer.state[0]``; empty for the top."""
    return "".join(map(format_key, root)).removeprefix(".")


def format_name(name: Key, limit: int | None = NAME_LIMIT) -> str:
    """Return the key of a state_dict as it is, made safe; other keys in brackets."""
    return safe(name, limit) if isinstance(name, str) else format_key(name)


def format_path(root: Root, name: Key, limit: int | None = NAME_LIMIT) -> str:
    """Return root and name together: ``model.layers.0.weight``, ``optimizer.state[0].exp_avg``."""
    text = format_name(name, limit)
    if not root:
        return text
    return f"{format_root(root)}.{text}" if isinstance(name, str) else f"{format_root(root)}{text}"


def format_value(value: Plain, limit: int = VALUE_LIMIT) -> str:
    """Return a plain value on one line: ``29``, ``"adam"``, ``[0.9, 0.999]``; a list is cut to ``limit``."""
    if not isinstance(value, tuple):
        return _scalar(value, limit)
    text = ""
    for piece in _pieces(value, limit):
        if len(text) + len(piece) > limit:
            return f"{text}, …] of {format_count(len(value))}".replace("[, …", "[…")
        text += piece
    return text


def _pieces(value: tuple[Plain, ...], limit: int) -> Iterator[str]:
    # How deep lists nest is the file's choice: a stack of iterators, not recursion.
    stack = [iter(value)]
    separator = ""
    yield "["
    while stack:
        for item in stack[-1]:
            if isinstance(item, tuple):
                stack.append(iter(item))
                yield f"{separator}["
                separator = ""
                break
            yield f"{separator}{_scalar(item, limit)}"
            separator = ", "
        else:
            stack.pop()
            separator = ", "
            yield "]"


def _scalar(value: Plain, limit: int) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return format_int(value)
    if isinstance(value, float):
        return format_float(value)
    if isinstance(value, bytes):
        return (
            f"{value[:limit]!r}" if len(value) <= limit else f"{value[:16]!r}…({plural(len(value), 'byte')})"
        )
    return f'"{safe(str(value), limit)}"'


MOST_NAMED = 3  # entries spelled out in a sentence

_LONGEST_NAME = 80  # characters of one of them

_MOST_WRITTEN = 10**18


def some(items: Sequence[T], show: Callable[[T], str] = str, most: int = MOST_NAMED) -> str:
    """The first few ``items``, and how many more: ``a, b, c and 4 more``."""
    more = len(items) - most
    return ", ".join(map(show, items[:most])) + (f" and {more:,} more" if more > 0 else "")


def first_few(items: Sequence[T], show: Callable[[T], str] = str, most: int = MOST_NAMED) -> str:
    """The first few ``items``, and whether there are more: ``a, b, c, …``."""
    return ", ".join(map(show, items[:most])) + (", …" if len(items) > most else "")


def nbytes_of(number: int) -> str:
    """A number of bytes in digits, or its magnitude."""
    # An expanded tensor claims any size: Python refuses to write integers of 4,300 digits.
    return plural(number, "byte") if number < _MOST_WRITTEN else f"about 2**{number.bit_length()} bytes"


def cut(text: str, limit: int = _LONGEST_NAME) -> str:
    """A string of the file: its first ``limit`` characters, and a mark where there were more."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def shorten(text: str, limit: int = _LONGEST_NAME) -> str:
    """A string of the file in ``limit`` characters at most, the mark among them."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
