"""Random damage to files: to raw bytes, or within the structure of their format."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from fuzzing import containers, texts

Change = Callable[[bytes, random.Random], bytes]
LARGEST = 1 << 22  # bytes of a damaged file
SIZES = (1, 2, 4, 8)
NUMBERS = (b"0", b"-1", b"1", b"255", b"256", b"65536", b"2147483648", b"4294967295",
           b"9223372036854775808", b"18446744073709551616", b"1e400", b"-1e400", b"nan",
           b"1" * 5000, b"0.5", b"1e-400", b"007", b"1_000", b"0x10")  # fmt: skip


def mutate(data: bytes, name: str, others: Sequence[bytes], draw: random.Random) -> bytes:
    """Damage `data` of the file `name` one to four times; `others` are files to splice with."""
    for _ in range(draw.choice((1, 1, 1, 2, 2, 4))):
        data = _mutate_once(data, name, others, draw)
    return data[:LARGEST]


def _mutate_once(data: bytes, name: str, others: Sequence[bytes], draw: random.Random) -> bytes:
    kind = draw.random()
    if kind < 0.5 and (change := _mutate_structure(data, name, others, draw)) is not None:
        return change
    if kind < 0.56 and others:
        other = draw.choice(others)
        at = draw.randrange(len(data) + 1)
        return data[:at] + other[draw.choice((at, draw.randrange(len(other) + 1))) :]
    return draw.choice(BLIND)(data, draw)


def _mutate_structure(
    data: bytes, name: str, others: Sequence[bytes], draw: random.Random
) -> bytes | None:
    """Change `data` within its format; None if the format is not known here."""
    inside = lambda part, called: mutate(part, called, (), draw)  # noqa: E731
    try:
        changed = containers.change(data, draw, inside)
        return texts.change(data, name, draw) if changed is None else changed
    except (RecursionError, OverflowError):  # nested deeply, or with a huge number
        return None


def _random_offset(data: bytes, draw: random.Random) -> int:
    """A random offset, more often near the beginning and the end, where formats keep headers."""
    size, kind = len(data), draw.random()
    if kind < 0.3:
        return draw.randrange(min(size, 64) + 1)
    if kind < 0.5:
        return draw.randrange(min(size, 1024) + 1)
    if kind < 0.65:
        return size - draw.randrange(min(size, 128) + 1)
    return draw.randrange(size + 1)


def flip_bits(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        at = _random_offset(data, draw)
        if at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
    return bytes(changed)


def set_bytes(data: bytes, draw: random.Random) -> bytes:
    at, size = _random_offset(data, draw), draw.choice((1, 2, 4, 30))
    return data[:at] + draw.randbytes(size) + data[at + size :]


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: _random_offset(data, draw)]


def drop_start(data: bytes, draw: random.Random) -> bytes:
    return data[draw.randrange(1, 65) :]


def drop_block(data: bytes, draw: random.Random) -> bytes:
    at = _random_offset(data, draw)
    return data[:at] + data[at + draw.choice((1, 2, 4, 16, 512, len(data) // 3 + 1)) :]


def repeat_block(data: bytes, draw: random.Random) -> bytes:
    at, size = _random_offset(data, draw), draw.choice((1, 4, 16, 512, len(data) // 3 + 1))
    times = draw.choice((2, 2, 3, 100, 10_000))
    times = min(times, 1 + LARGEST // (4 * size))
    return data[:at] + data[at : at + size] * times + data[at + size :]


def fill_block(data: bytes, draw: random.Random) -> bytes:
    at, size = _random_offset(data, draw), draw.choice((1, 4, 16, 512, 1 << 16))
    size = min(size, len(data) - at)
    return data[:at] + bytes([draw.choice((0, 255, 127, 32, 48))]) * size + data[at + size :]


def swap_blocks(data: bytes, draw: random.Random) -> bytes:
    a, b = sorted((_random_offset(data, draw), _random_offset(data, draw)))
    c = b + draw.choice((1, 4, 16, 512))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def set_integer(data: bytes, draw: random.Random) -> bytes:
    """Replace an integer of 1 to 8 bytes, in either order, by an extreme or a nearby value."""
    at, size, order = _random_offset(data, draw), draw.choice(SIZES), draw.choice(("little", "big"))
    at -= at % draw.choice((1, size))
    value, bits = int.from_bytes(data[at : at + size], order), 8 * size
    near = value + draw.choice((-1, 1, -2, 7, 256, 65536))
    top = 1 << bits
    found = draw.choice((0, 1, near, near, 2 * value, top // 2 - 1, top // 2, top - 1, top - 16))
    return data[:at] + (found % top).to_bytes(size, order) + data[at + size :]


def set_number(data: bytes, draw: random.Random) -> bytes:
    """Replace a number written in digits by another."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[: 1 << 16]))
    if not found:
        return set_integer(data, draw)
    match = draw.choice(found)
    written = draw.choice(NUMBERS)
    if draw.random() < 0.3:  # of the same length, as binary formats need
        written = (written * 9)[: len(match[0])]
    return data[: match.start()] + written + data[match.end() :]


def replace_all(data: bytes, draw: random.Random) -> bytes:
    """Replace all contents by a few bytes."""
    return draw.choice(
        (b"", b"\0", b"\n", b"{}", b"[]", b"null", data[:8], bytes(512), b"\xff\xfe")
    )


BLIND: tuple[Change, ...] = (
    flip_bits,
    flip_bits,
    set_bytes,
    cut,
    cut,
    drop_block,
    repeat_block,
    fill_block,
    swap_blocks,
    set_integer,
    set_integer,
    set_integer,
    set_number,
    set_number,
)
BLIND = (*BLIND, *BLIND, drop_start, replace_all)
