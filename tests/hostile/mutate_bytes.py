"""Mutations that know no structure: flipped bits, cuts, copies, and numbers that sit on an edge.

Every choice comes from a ``random.Random``: hypothesis hands one in that it can shrink, atheris gives a seed.
"""

from __future__ import annotations

from random import Random

EDGES = tuple(
    sorted(
        {
            base + step
            for power in (7, 8, 15, 16, 31, 32, 53, 63, 64)
            for base in (1 << power,)
            for step in (-1, 0, 1)
        }
    )
)
"""Where a width ends: of a byte, of each C integer, of the mantissa of a double."""


def edge_integer(rnd: Random, near: int = 0) -> int:
    """A number to stumble over: small, next to ``near``, at the end of a width, or negative."""
    kind = rnd.randrange(4)
    if kind == 0:
        return rnd.randrange(-2, 10)
    if kind == 1:
        return near + rnd.choice((-8, -4, -1, 1, 2, 4, 8, near))
    value = rnd.choice(EDGES)
    return value if kind == 2 else -value


def clamp(value: int, nbytes: int) -> int:
    """``value`` as an unsigned field of ``nbytes`` holds it."""
    return value & ((1 << 8 * nbytes) - 1)


def mutate_bytes(data: bytes, rnd: Random) -> bytes:
    """One change anywhere."""
    if not data:
        return rnd.choice((b"\0", b"PK\x03\x04", b"\x80\x02}.", bytes(8)))
    at = rnd.randrange(len(data))
    nbytes = min(len(data) - at, rnd.choice((1, 1, 2, 4, 8, 64)))
    kind = rnd.randrange(7)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << rnd.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + data[at + nbytes :]
    if kind == 3:
        return data[: at + nbytes] + data[at:]
    if kind == 4:
        return data[:at] + bytes(rnd.randrange(256) for _ in range(nbytes)) + data[at:]
    if kind == 5:
        width = rnd.choice((1, 2, 4, 8))
        number = clamp(edge_integer(rnd, int.from_bytes(data[at : at + width], "little")), width)
        return data[:at] + number.to_bytes(width, rnd.choice(("little", "big"))) + data[at + width :]
    source = rnd.randrange(len(data))
    return data[:at] + data[source : source + nbytes] + data[at + nbytes :]
