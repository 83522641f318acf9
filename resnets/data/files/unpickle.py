"""Read pickles without executing anything they contain.

CIFAR's batches, Detectron's model zoo and torch's files are pickles. A pickle is a program for a
small stack machine that may import and call anything. This reader is such a machine of its own
(`pickle_machine`). It builds containers, numbers and text; every other construct must be in the
`Vocabulary` that its caller gives, whose functions are ours and check their arguments. No object of
another class is ever created, no `__setstate__` or `__init__` of one called, no attribute set.

Time and memory are linear in the length of the pickle: the memo is a dict, keys are hashed in
constant time, and data that are copied repeatedly are counted.

Each opcode is called with the machine and the offset after its code, and returns that of the next
code.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from resnets.data.files.pickle_machine import PickleError, PickleMachine, Vocabulary, hashable

MAX_STEPS = 4_000_000  # a checkpoint has about ten thousand, CIFAR-100 300,000
STOP = ord(".")
MAX_INTEGER_BYTES = 255  # bytes

Step = Callable[[PickleMachine, int], int]


def _push_constant(value: Any) -> Step:
    def step(self: PickleMachine, at: int) -> int:
        self.push(value)
        return at

    return step


def _push_number(format: str) -> Step:
    size = struct.calcsize(format)

    def step(self: PickleMachine, at: int) -> int:
        self.push(struct.unpack_from(format, self.data, at)[0])
        return at + size

    return step


def _push_integer(format: str) -> Step:
    """Push an integer of any length, little endian."""

    def step(self: PickleMachine, at: int) -> int:
        raw, at = self.sized(at, format)
        if len(raw) > MAX_INTEGER_BYTES:
            raise PickleError(f"it contains an integer of {len(raw):,} bytes; not loaded")
        self.push(int.from_bytes(raw, "little", signed=True))
        return at

    return step


def _push_text(format: str, encoding: str) -> Step:
    def step(self: PickleMachine, at: int) -> int:
        raw, at = self.sized(at, format)
        self.push(str(raw, encoding, "surrogatepass" if encoding == "utf-8" else "strict"))
        return at

    return step


def _push_bytes(format: str) -> Step:
    def step(self: PickleMachine, at: int) -> int:
        raw, at = self.sized(at, format)
        self.push(bytes(raw))
        return at

    return step


def _push_line(read: Callable[[str], Any]) -> Step:
    """Push a value of protocol 0, which is written as one line."""

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


def _push_tuple(count: int) -> Step:
    def step(self: PickleMachine, at: int) -> int:
        items = [self.whole(self.pop()) for _ in range(count)]
        self.push(tuple(reversed(items)))
        return at

    return step


def _put_memo(format: str) -> Step:
    size = struct.calcsize(format)

    def step(self: PickleMachine, at: int) -> int:
        self.remember(struct.unpack_from(format, self.data, at)[0])
        return at + size

    return step


def _get_memo(format: str) -> Step:
    size = struct.calcsize(format)

    def step(self: PickleMachine, at: int) -> int:
        self.push(self.memo[struct.unpack_from(format, self.data, at)[0]])
        return at + size

    return step


def _skip(size: int) -> Step:
    """Skip a protocol number or the length of a frame; neither is needed."""

    def step(self: PickleMachine, at: int) -> int:
        return self.take(at, size)[1]

    return step


def _run(action: Callable[[PickleMachine], Any]) -> Step:
    """Run an action without an argument."""

    def step(self: PickleMachine, at: int) -> int:
        action(self)
        return at

    return step


def _refuse(what: str) -> Step:
    def step(self: PickleMachine, at: int) -> int:
        raise PickleError(f"{what}; not loaded")

    return step


def _push_mark(self: PickleMachine) -> None:
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
        raise PickleError("it appends items to an object that is not a list; not loaded")


def _set_item(self: PickleMachine) -> None:
    value, key = self.whole(self.pop()), self.pop()
    self.set(self.stack[-1], [key, value])


def _set_items(self: PickleMachine) -> None:
    pairs = self.items()
    self.set(self.stack[-1], pairs)


def _build_dict(self: PickleMachine) -> None:
    made: dict[Any, Any] = {}
    self.set(made, self.items())
    self.push(made)


def _build_frozenset(self: PickleMachine) -> None:
    self.push(frozenset(map(hashable, self.items())))


def _reduce(self: PickleMachine) -> None:
    arguments, known = self.pop(), self.pop()
    self.push(self.call(known, arguments))


def _push_global(self: PickleMachine, at: int) -> int:
    module, at = self.line(at)
    name, at = self.line(at)
    self.push(self.find(module, name))
    return at


def _push_stack_global(self: PickleMachine) -> None:
    name, module = self.pop(), self.pop()
    if type(name) is not str or type(module) is not str:
        raise PickleError("damaged: the name of a class is not a string")
    self.push(self.find(module, name))


def _push_persistent(self: PickleMachine) -> None:
    if self.persistent is None:
        raise PickleError("it refers to external data; not loaded")
    self.push(self.persistent(self.whole(self.pop())))


def _pop_top(self: PickleMachine) -> None:
    if self.marks and len(self.stack) == self.marks[-1]:
        self.marks.pop()
    else:
        self.pop()


def _get_memo_line(self: PickleMachine, at: int) -> int:
    text, at = self.line(at)
    self.push(self.memo[int(text)])
    return at


def _put_memo_line(self: PickleMachine, at: int) -> int:
    text, at = self.line(at)
    self.remember(int(text))
    return at


_STEPS: dict[bytes, Step] = {
    b"(": _run(_push_mark),
    b"0": _run(_pop_top),
    b"1": _run(lambda self: self.items()),
    b"2": _run(lambda self: self.push(self.whole(self.stack[-1]))),
    b"N": _push_constant(None),
    b"\x88": _push_constant(True),
    b"\x89": _push_constant(False),
    b")": _push_constant(()),
    b"K": _push_number("<B"),
    b"M": _push_number("<H"),
    b"J": _push_number("<i"),
    b"G": _push_number(">d"),
    b"\x8a": _push_integer("<B"),
    b"\x8b": _push_integer("<i"),
    b"I": _push_line(_read_integer),
    b"L": _push_line(_read_integer),
    b"F": _push_line(float),
    b"S": _push_line(_read_string),
    b"V": _push_line(_read_unicode),
    b"U": _push_text("<B", "latin1"),
    b"T": _push_text("<i", "latin1"),
    b"\x8c": _push_text("<B", "utf-8"),
    b"X": _push_text("<I", "utf-8"),
    b"\x8d": _push_text("<Q", "utf-8"),
    b"C": _push_bytes("<B"),
    b"B": _push_bytes("<I"),
    b"\x8e": _push_bytes("<Q"),
    b"\x96": _push_bytes("<Q"),
    b"]": _run(lambda self: self.push([])),
    b"}": _run(lambda self: self.push({})),
    b"\x8f": _run(lambda self: self.push(set())),
    b"l": _run(lambda self: self.push(self.items())),
    b"t": _run(lambda self: self.push(tuple(self.items()))),
    b"d": _run(_build_dict),
    b"\x91": _run(_build_frozenset),
    b"\x85": _push_tuple(1),
    b"\x86": _push_tuple(2),
    b"\x87": _push_tuple(3),
    b"a": _run(_append),
    b"e": _run(lambda self: _extend(self, self.items())),
    b"\x90": _run(lambda self: _extend(self, self.items())),
    b"s": _run(_set_item),
    b"u": _run(_set_items),
    b"q": _put_memo("<B"),
    b"r": _put_memo("<I"),
    b"p": _put_memo_line,
    b"\x94": _run(lambda self: self.remember(len(self.memo))),
    b"h": _get_memo("<B"),
    b"j": _get_memo("<I"),
    b"g": _get_memo_line,
    b"c": _push_global,
    b"\x93": _run(_push_stack_global),
    b"R": _run(_reduce),
    b"\x81": _run(_reduce),  # cls.__new__(cls, *args): calls the function for the class
    b"b": _run(lambda self: self.build()),
    b"Q": _run(_push_persistent),
    b"\x80": _skip(1),
    b"\x95": _skip(8),
    b"P": _refuse("it refers to external data"),
    b"i": _refuse("it creates an old-style class"),
    b"o": _refuse("it creates an old-style class"),
    b"\x92": _refuse("it creates an object with keyword arguments"),
    b"\x82": _refuse("refers to a class by number"),
    b"\x83": _refuse("refers to a class by number"),
    b"\x84": _refuse("refers to a class by number"),
    b"\x97": _refuse("it refers to external data"),
    b"\x98": _refuse("it refers to external data"),
}
OPCODES: list[Step | None] = [_STEPS.get(bytes([code])) for code in range(256)]


class Unpickler(PickleMachine):
    """Reads one pickle, or several consecutive ones, in `data`.

    persistent: resolves the persistent ids of torch's files. Strings of Python 2 are read as
    latin-1. position: offset after the last pickle read.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        vocabulary: Vocabulary,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(data, vocabulary, persistent)
        self.steps = 0
        self.position = 0

    def load(self) -> Any:
        """Return the value of the next pickle; raises PickleError if damaged or unsupported."""
        self.clear()
        data, at = self.data, self.position
        try:
            while True:
                code = data[at]
                at += 1
                if code == STOP:
                    self.position = at
                    return self.whole(self.stack.pop())
                step = OPCODES[code]
                if step is None:
                    raise PickleError(f"damaged: no instruction {code:#04x} (byte {at - 1})")
                at = step(self, at)
                self.steps += 1
                if self.steps > MAX_STEPS:
                    raise PickleError(f"more than {MAX_STEPS:,} instructions; not loaded")
        except PickleError:
            raise
        except (IndexError, struct.error):
            raise PickleError("cut short or damaged") from None
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise PickleError(f"damaged ({type(error).__name__}: {error})") from None


def unpickle(data: bytes | memoryview, vocabulary: Vocabulary) -> Any:
    """Return the value of the only pickle in `data`; raises PickleError as `Unpickler.load`."""
    return Unpickler(data, vocabulary).load()
