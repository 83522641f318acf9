"""Pickles read without running anything: the one unpickler of the package.

CIFAR's batches, Detectron's model zoo and torch's files are pickles. A pickle is a program for a
small stack machine that may import and call anything. This reader is such a machine of its own. It
builds containers, numbers and text itself; every other construct must be in the `Vocabulary` that
its caller gives, whose functions are ours and check their arguments. No object of a foreign class
is ever made, no `__setstate__` or `__init__` of one called, no attribute set.

Time and memory are linear in the length of the pickle: the memo is a dict, keys are hashed in
constant time, and what a pickle can have copied again and again is counted.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from typing import Any

MOST_STEPS = 4_000_000  # instructions; a checkpoint has some ten thousand, CIFAR-100 300,000
LONGEST_KEY = 16  # items of a tuple that serves as key
LONGEST_INTEGER = 255  # bytes
COPIES = 4  # times the length of the pickle that its constructs may copy


class PickleError(ValueError):
    """A pickle that is damaged or holds what its reader does not know.

    unknown: "module.name" of the class or function that has no place in it, else None.
    """

    def __init__(self, message: str, unknown: str | None = None) -> None:
        super().__init__(message)
        self.unknown = unknown


class Known:
    """A class or function that a pickle may name; `function` stands in where it is called."""

    __slots__ = ("function", "name")

    def __init__(self, name: str, function: Callable[..., Any] | None = None) -> None:
        self.name, self.function = name, function


class Unbuilt:
    """What a call made and the pickle then gives its state; `build` turns that into the value.

    empty: the value where the pickle gives none, as of an object without attributes.
    """

    __slots__ = ("build", "empty", "keys")

    def __init__(self, build: Callable[[Any], Any], empty: Any = None) -> None:
        self.build, self.empty = build, empty
        self.keys: list[int] = []  # of the memo, to put the value there


# What pickles may name, by "module.name".
Vocabulary = Mapping[str, Known]


class Unpickler:
    """Reads one or several pickles that follow each other in `data`.

    persistent: what stands for the persistent ids of torch's files. Strings of Python 2 are read
    as latin-1. `position` is the byte after the last pickle read.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        vocabulary: Vocabulary,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._data = memoryview(data)
        self._vocabulary, self._persistent = vocabulary, persistent
        self._steps = 0
        self._copied = 0
        self.position = 0

    def load(self) -> Any:
        """The value of the next pickle; PickleError where it is damaged or asks for more."""
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        data, at, run = self._data, self.position, _RUN
        try:
            while True:
                code = data[at]
                at += 1
                if code == STOP:
                    self.position = at
                    return self._whole(self._stack.pop())
                step = run[code]
                if step is None:
                    raise PickleError(f"damaged: no instruction {code:#04x} (byte {at - 1})")
                at = step(self, at)
                self._steps += 1
                if self._steps > MOST_STEPS:
                    raise PickleError(f"more than {MOST_STEPS:,} instructions; not loaded")
        except PickleError:
            raise
        except (IndexError, struct.error):
            raise PickleError("cut short or damaged") from None
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise PickleError(f"damaged ({type(error).__name__}: {error})") from None

    def _count(self, handed: tuple[Any, ...]) -> None:
        """Count what a construct may copy; a pickle can hand it the same data again and again."""
        self._copied += sum(len(each) for each in handed if type(each) in (str, bytes, list))
        if self._copied > COPIES * len(self._data) + 65536:
            raise PickleError("its data are copied again and again; not loaded")

    # What the instructions do. Each takes the byte after its code and returns where the next is.

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _take(self, at: int, size: int) -> tuple[memoryview, int]:
        """The next `size` bytes."""
        end = at + size
        if size < 0 or end > len(self._data):
            raise PickleError("cut short or damaged")
        return self._data[at:end], end

    def _sized(self, at: int, format: str) -> tuple[memoryview, int]:
        """Bytes whose number stands before them."""
        (size,) = struct.unpack_from(format, self._data, at)
        return self._take(at + struct.calcsize(format), size)

    def _line(self, at: int) -> tuple[str, int]:
        """Text up to the end of the line."""
        end = at
        while self._data[end] != 10:
            end += 1
        return bytes(self._data[at:end]).decode("latin1").rstrip("\r"), end + 1

    def _items(self) -> list[Any]:
        """What lies above the last mark."""
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return [self._whole(item) for item in items]

    def _whole(self, value: Any) -> Any:
        if type(value) is Unbuilt:
            if value.empty is not None:
                return value.empty
            raise PickleError("makes something and does not fill it; not loaded")
        return value

    def _pop(self) -> Any:
        stack = self._stack
        if self._marks and len(stack) <= self._marks[-1]:
            raise PickleError("cut short or damaged")
        return stack.pop()

    def _find(self, module: str, name: str) -> Known:
        full = f"{module}.{name}"
        known = self._vocabulary.get(full)
        if known is None:
            raise PickleError(f"holds {shown(full)}, which has no place in it", shown(full))
        return known

    def _call(self, known: Any, arguments: Any) -> Any:
        if type(known) is not Known or type(arguments) is not tuple:
            raise PickleError("calls what is no function; not loaded")
        if known.function is None:
            raise PickleError(f"makes a {known.name}, which has no place in it", known.name)
        self._count(arguments)
        return known.function(*arguments)

    def _set(self, target: Any, pairs: list[Any]) -> None:
        if type(target) is not dict:
            raise PickleError("puts items into what is no dict; not loaded")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[hashable(key)] = value

    def _remember(self, index: int) -> None:
        value = self._stack[-1]
        if type(value) is Unbuilt:
            value.keys.append(index)
        self._memo[index] = value

    def _build(self) -> None:
        state, target = self._whole(self._pop()), self._stack[-1]
        if type(target) is Unbuilt:
            if type(state) is tuple:
                self._count(state)
            value = self._stack[-1] = target.build(state)
            for key in target.keys:
                self._memo[key] = value
        elif type(target) is not dict or type(state) is not dict:
            # A state dict's attribute `_metadata` is all that comes here: it is let go.
            raise PickleError("sets the state of something; not loaded")


def unpickle(data: bytes | memoryview, vocabulary: Vocabulary) -> Any:
    """The value of the one pickle in `data`; PickleError as `Unpickler.load`."""
    return Unpickler(data, vocabulary).load()


def shown(name: str) -> str:
    """The name of a class for a message: printable, and not longer than a line."""
    return "".join(char if char.isprintable() else "?" for char in name[:120])


def hashable(key: Any) -> Any:
    """`key`, if it is hashed in constant time: text, a number, None, or a short tuple of these."""
    kind = type(key)
    if kind in (str, bytes, int, float, bool, type(None)):
        return key
    flat = kind is tuple and len(key) <= LONGEST_KEY
    if flat and all(type(item) in (str, bytes, int, float, bool, type(None)) for item in key):
        return key
    raise PickleError(f"a key that is a {kind.__name__}; not loaded")


def _constant(value: Any) -> Step:
    def step(self: Unpickler, at: int) -> int:
        self._push(value)
        return at

    return step


def _number(format: str) -> Step:
    size = struct.calcsize(format)

    def step(self: Unpickler, at: int) -> int:
        self._push(struct.unpack_from(format, self._data, at)[0])
        return at + size

    return step


def _integer(format: str) -> Step:
    """An integer of any length, little endian."""

    def step(self: Unpickler, at: int) -> int:
        raw, at = self._sized(at, format)
        if len(raw) > LONGEST_INTEGER:
            raise PickleError(f"an integer of {len(raw):,} bytes; not loaded")
        self._push(int.from_bytes(raw, "little", signed=True))
        return at

    return step


def _text(format: str, encoding: str) -> Step:
    def step(self: Unpickler, at: int) -> int:
        raw, at = self._sized(at, format)
        self._push(str(raw, encoding, "surrogatepass" if encoding == "utf-8" else "strict"))
        return at

    return step


def _bytes(format: str) -> Step:
    def step(self: Unpickler, at: int) -> int:
        raw, at = self._sized(at, format)
        self._push(bytes(raw))
        return at

    return step


def _line_of(read: Callable[[str], Any]) -> Step:
    """A value of protocol 0, written as one line."""

    def step(self: Unpickler, at: int) -> int:
        text, at = self._line(at)
        self._push(read(text))
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
    def step(self: Unpickler, at: int) -> int:
        items = [self._whole(self._pop()) for _ in range(count)]
        self._push(tuple(reversed(items)))
        return at

    return step


def _put(format: str) -> Step:
    size = struct.calcsize(format)

    def step(self: Unpickler, at: int) -> int:
        self._remember(struct.unpack_from(format, self._data, at)[0])
        return at + size

    return step


def _get(format: str) -> Step:
    size = struct.calcsize(format)

    def step(self: Unpickler, at: int) -> int:
        self._push(self._memo[struct.unpack_from(format, self._data, at)[0]])
        return at + size

    return step


def _skip(size: int) -> Step:
    """A protocol number, or the length of a frame: neither decides anything here."""

    def step(self: Unpickler, at: int) -> int:
        return self._take(at, size)[1]

    return step


def _does(action: Callable[[Unpickler], Any]) -> Step:
    """An instruction without an argument."""

    def step(self: Unpickler, at: int) -> int:
        action(self)
        return at

    return step


def _refused(what: str) -> Step:
    def step(self: Unpickler, at: int) -> int:
        raise PickleError(f"{what}; not loaded")

    return step


def _mark(self: Unpickler) -> None:
    self._marks.append(len(self._stack))


def _append(self: Unpickler) -> None:
    value = self._whole(self._pop())
    _extend(self, [value])


def _extend(self: Unpickler, values: list[Any]) -> None:
    target = self._stack[-1]
    if type(target) is list:
        target.extend(values)
    elif type(target) is set:
        target.update(map(hashable, values))
    else:
        raise PickleError("puts items into what is no list; not loaded")


def _set_one(self: Unpickler) -> None:
    value, key = self._whole(self._pop()), self._pop()
    self._set(self._stack[-1], [key, value])


def _set_some(self: Unpickler) -> None:
    pairs = self._items()
    self._set(self._stack[-1], pairs)


def _dict(self: Unpickler) -> None:
    made: dict[Any, Any] = {}
    self._set(made, self._items())
    self._push(made)


def _frozen(self: Unpickler) -> None:
    self._push(frozenset(map(hashable, self._items())))


def _reduce(self: Unpickler) -> None:
    arguments, known = self._pop(), self._pop()
    self._push(self._call(known, arguments))


def _global(self: Unpickler, at: int) -> int:
    module, at = self._line(at)
    name, at = self._line(at)
    self._push(self._find(module, name))
    return at


def _stack_global(self: Unpickler) -> None:
    name, module = self._pop(), self._pop()
    if type(name) is not str or type(module) is not str:
        raise PickleError("damaged: the name of a class is no text")
    self._push(self._find(module, name))


def _persistent(self: Unpickler) -> None:
    if self._persistent is None:
        raise PickleError("refers to something outside; not loaded")
    self._push(self._persistent(self._whole(self._pop())))


def _pop_top(self: Unpickler) -> None:
    if self._marks and len(self._stack) == self._marks[-1]:
        self._marks.pop()
    else:
        self._pop()


def _get_line(self: Unpickler, at: int) -> int:
    text, at = self._line(at)
    self._push(self._memo[int(text)])
    return at


def _put_line(self: Unpickler, at: int) -> int:
    text, at = self._line(at)
    self._remember(int(text))
    return at


Step = Callable[[Unpickler, int], int]
STOP = ord(".")
_STEPS: dict[bytes, Step] = {
    b"(": _does(_mark),
    b"0": _does(_pop_top),
    b"1": _does(lambda self: self._items()),
    b"2": _does(lambda self: self._push(self._whole(self._stack[-1]))),
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
    b"]": _does(lambda self: self._push([])),
    b"}": _does(lambda self: self._push({})),
    b"\x8f": _does(lambda self: self._push(set())),
    b"l": _does(lambda self: self._push(self._items())),
    b"t": _does(lambda self: self._push(tuple(self._items()))),
    b"d": _does(_dict),
    b"\x91": _does(_frozen),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"a": _does(_append),
    b"e": _does(lambda self: _extend(self, self._items())),
    b"\x90": _does(lambda self: _extend(self, self._items())),
    b"s": _does(_set_one),
    b"u": _does(_set_some),
    b"q": _put("<B"),
    b"r": _put("<I"),
    b"p": _put_line,
    b"\x94": _does(lambda self: self._remember(len(self._memo))),
    b"h": _get("<B"),
    b"j": _get("<I"),
    b"g": _get_line,
    b"c": _global,
    b"\x93": _does(_stack_global),
    b"R": _does(_reduce),
    b"\x81": _does(_reduce),  # cls.__new__(cls, *args): to us a call of what stands for the class
    b"b": _does(lambda self: self._build()),
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
_RUN: list[Step | None] = [_STEPS.get(bytes([code])) for code in range(256)]
