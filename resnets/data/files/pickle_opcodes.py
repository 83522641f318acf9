"""The instructions of pickles, by their codes.

Each is called with the machine and the byte after its code, and returns where the next code is.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from resnets.data.files.pickle_machine import PickleError, PickleMachine, hashable

LONGEST_INTEGER = 255  # bytes

Step = Callable[[PickleMachine, int], int]


def _constant(value: Any) -> Step:
    def step(self: PickleMachine, at: int) -> int:
        self.push(value)
        return at

    return step


def _number(format: str) -> Step:
    size = struct.calcsize(format)

    def step(self: PickleMachine, at: int) -> int:
        self.push(struct.unpack_from(format, self.data, at)[0])
        return at + size

    return step


def _integer(format: str) -> Step:
    """An integer of any length, little endian."""

    def step(self: PickleMachine, at: int) -> int:
        raw, at = self.sized(at, format)
        if len(raw) > LONGEST_INTEGER:
            raise PickleError(f"an integer of {len(raw):,} bytes; not loaded")
        self.push(int.from_bytes(raw, "little", signed=True))
        return at

    return step


def _text(format: str, encoding: str) -> Step:
    def step(self: PickleMachine, at: int) -> int:
        raw, at = self.sized(at, format)
        self.push(str(raw, encoding, "surrogatepass" if encoding == "utf-8" else "strict"))
        return at

    return step


def _bytes(format: str) -> Step:
    def step(self: PickleMachine, at: int) -> int:
        raw, at = self.sized(at, format)
        self.push(bytes(raw))
        return at

    return step


def _line_of(read: Callable[[str], Any]) -> Step:
    """A value of protocol 0, written as one line."""

    def step(self: PickleMachine, at: int) -> int:
        text, at = self.line(at)
        self.push(read(text))
        return at

    return step


def _read_integer(text: str) -> int:
    if text in ("00", "01"):
        return text == "01"
    return int(text.removesuffix("L"))


def _read_string(text: str) -> str:
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "\"'":
        raise PickleError("damaged: a string without quotes")
    return codecs.escape_decode(text[1:-1].encode("latin1"))[0].decode("latin1")


def _read_unicode(text: str) -> str:
    return text.encode("latin1").decode("raw-unicode-escape")


def _tuple(count: int) -> Step:
    def step(self: PickleMachine, at: int) -> int:
        items = [self.whole(self.pop()) for _ in range(count)]
        self.push(tuple(reversed(items)))
        return at

    return step


def _put(format: str) -> Step:
    size = struct.calcsize(format)

    def step(self: PickleMachine, at: int) -> int:
        self.remember(struct.unpack_from(format, self.data, at)[0])
        return at + size

    return step


def _get(format: str) -> Step:
    size = struct.calcsize(format)

    def step(self: PickleMachine, at: int) -> int:
        self.push(self.memo[struct.unpack_from(format, self.data, at)[0]])
        return at + size

    return step


def _skip(size: int) -> Step:
    """A protocol number, or the length of a frame: neither decides anything here."""

    def step(self: PickleMachine, at: int) -> int:
        return self.take(at, size)[1]

    return step


def _does(action: Callable[[PickleMachine], Any]) -> Step:
    """An instruction without an argument."""

    def step(self: PickleMachine, at: int) -> int:
        action(self)
        return at

    return step


def _refused(what: str) -> Step:
    def step(self: PickleMachine, at: int) -> int:
        raise PickleError(f"{what}; not loaded")

    return step


def _mark(self: PickleMachine) -> None:
    self.marks.append(len(self.stack))


def _append(self: PickleMachine) -> None:
    value = self.whole(self.pop())
    _extend(self, [value])


def _extend(self: PickleMachine, values: list[Any]) -> None:
    target = self.stack[-1]
    if type(target) is list:
        target.extend(values)
    elif type(target) is set:
        target.update(map(hashable, values))
    else:
        raise PickleError("puts items into what is no list; not loaded")


def _set_one(self: PickleMachine) -> None:
    value, key = self.whole(self.pop()), self.pop()
    self.set(self.stack[-1], [key, value])


def _set_some(self: PickleMachine) -> None:
    pairs = self.items()
    self.set(self.stack[-1], pairs)


def _dict(self: PickleMachine) -> None:
    made: dict[Any, Any] = {}
    self.set(made, self.items())
    self.push(made)


def _frozen(self: PickleMachine) -> None:
    self.push(frozenset(map(hashable, self.items())))


def _reduce(self: PickleMachine) -> None:
    arguments, known = self.pop(), self.pop()
    self.push(self.call(known, arguments))


def _global(self: PickleMachine, at: int) -> int:
    module, at = self.line(at)
    name, at = self.line(at)
    self.push(self.find(module, name))
    return at


def _stack_global(self: PickleMachine) -> None:
    name, module = self.pop(), self.pop()
    if type(name) is not str or type(module) is not str:
        raise PickleError("damaged: the name of a class is no text")
    self.push(self.find(module, name))


def _persistent(self: PickleMachine) -> None:
    if self.persistent is None:
        raise PickleError("refers to something outside; not loaded")
    self.push(self.persistent(self.whole(self.pop())))


def _pop_top(self: PickleMachine) -> None:
    if self.marks and len(self.stack) == self.marks[-1]:
        self.marks.pop()
    else:
        self.pop()


def _get_line(self: PickleMachine, at: int) -> int:
    text, at = self.line(at)
    self.push(self.memo[int(text)])
    return at


def _put_line(self: PickleMachine, at: int) -> int:
    text, at = self.line(at)
    self.remember(int(text))
    return at


_STEPS: dict[bytes, Step] = {
    b"(": _does(_mark),
    b"0": _does(_pop_top),
    b"1": _does(lambda self: self.items()),
    b"2": _does(lambda self: self.push(self.whole(self.stack[-1]))),
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b")": _constant(()),
    b"K": _number("<B"),
    b"M": _number("<H"),
    b"J": _number("<i"),
    b"G": _number(">d"),
    b"\x8a": _integer("<B"),
    b"\x8b": _integer("<i"),
    b"I": _line_of(_read_integer),
    b"L": _line_of(_read_integer),
    b"F": _line_of(float),
    b"S": _line_of(_read_string),
    b"V": _line_of(_read_unicode),
    b"U": _text("<B", "latin1"),
    b"T": _text("<i", "latin1"),
    b"\x8c": _text("<B", "utf-8"),
    b"X": _text("<I", "utf-8"),
    b"\x8d": _text("<Q", "utf-8"),
    b"C": _bytes("<B"),
    b"B": _bytes("<I"),
    b"\x8e": _bytes("<Q"),
    b"\x96": _bytes("<Q"),
    b"]": _does(lambda self: self.push([])),
    b"}": _does(lambda self: self.push({})),
    b"\x8f": _does(lambda self: self.push(set())),
    b"l": _does(lambda self: self.push(self.items())),
    b"t": _does(lambda self: self.push(tuple(self.items()))),
    b"d": _does(_dict),
    b"\x91": _does(_frozen),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"a": _does(_append),
    b"e": _does(lambda self: _extend(self, self.items())),
    b"\x90": _does(lambda self: _extend(self, self.items())),
    b"s": _does(_set_one),
    b"u": _does(_set_some),
    b"q": _put("<B"),
    b"r": _put("<I"),
    b"p": _put_line,
    b"\x94": _does(lambda self: self.remember(len(self.memo))),
    b"h": _get("<B"),
    b"j": _get("<I"),
    b"g": _get_line,
    b"c": _global,
    b"\x93": _does(_stack_global),
    b"R": _does(_reduce),
    b"\x81": _does(_reduce),  # cls.__new__(cls, *args): to us a call of what stands for the class
    b"b": _does(lambda self: self.build()),
    b"Q": _does(_persistent),
    b"\x80": _skip(1),
    b"\x95": _skip(8),
    b"P": _refused("refers to something outside"),
    b"i": _refused("makes an object of a class of old"),
    b"o": _refused("makes an object of a class of old"),
    b"\x92": _refused("makes an object with named arguments"),
    b"\x82": _refused("refers to a class by number"),
    b"\x83": _refused("refers to a class by number"),
    b"\x84": _refused("refers to a class by number"),
    b"\x97": _refused("refers to data outside"),
    b"\x98": _refused("refers to data outside"),
}
OPCODES: list[Step | None] = [_STEPS.get(bytes([code])) for code in range(256)]
