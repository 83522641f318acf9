"""The small stack machine that a pickle is a program for, and what that program may name.

It builds containers, numbers and text; every other construct must be in the `Vocabulary` of its
caller. The instructions are in `pickle_opcodes`, the loop over them in `unpickle`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

LONGEST_KEY = 16  # items of a tuple that serves as key
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


class PickleMachine:
    """The stack, marks and memo of a pickle in `data`, and what its instructions do with them.

    persistent: what stands for the persistent ids of torch's files.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        vocabulary: Vocabulary,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data = memoryview(data)
        self.vocabulary, self.persistent = vocabulary, persistent
        self.copied = 0
        self.clear()

    def clear(self) -> None:
        """Begin a pickle: nothing on the stack, nothing remembered."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def count(self, handed: tuple[Any, ...]) -> None:
        """Count what a construct may copy; a pickle can hand it the same data again and again."""
        self.copied += sum(len(each) for each in handed if type(each) in (str, bytes, list))
        if self.copied > COPIES * len(self.data) + 65536:
            raise PickleError("its data are copied again and again; not loaded")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def take(self, at: int, size: int) -> tuple[memoryview, int]:
        """The next `size` bytes."""
        end = at + size
        if size < 0 or end > len(self.data):
            raise PickleError("cut short or damaged")
        return self.data[at:end], end

    def sized(self, at: int, format: str) -> tuple[memoryview, int]:
        """Bytes whose number stands before them."""
        (size,) = struct.unpack_from(format, self.data, at)
        return self.take(at + struct.calcsize(format), size)

    def line(self, at: int) -> tuple[str, int]:
        """Text up to the end of the line."""
        end = at
        while self.data[end] != 10:
            end += 1
        return bytes(self.data[at:end]).decode("latin1").rstrip("\r"), end + 1

    def items(self) -> list[Any]:
        """What lies above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return [self.whole(item) for item in items]

    def whole(self, value: Any) -> Any:
        """The value; PickleError for what was made and not filled."""
        if type(value) is Unbuilt:
            if value.empty is not None:
                return value.empty
            raise PickleError("makes something and does not fill it; not loaded")
        return value

    def pop(self) -> Any:
        """Take a value from the stack, none from below the last mark."""
        stack = self.stack
        if self.marks and len(stack) <= self.marks[-1]:
            raise PickleError("cut short or damaged")
        return stack.pop()

    def find(self, module: str, name: str) -> Known:
        """What stands for a class or function; PickleError where it has no place."""
        full = f"{module}.{name}"
        known = self.vocabulary.get(full)
        if known is None:
            raise PickleError(f"holds {shown(full)}, which has no place in it", shown(full))
        return known

    def call(self, known: Any, arguments: Any) -> Any:
        """What the function that stands for a class or function makes of its arguments."""
        if type(known) is not Known or type(arguments) is not tuple:
            raise PickleError("calls what is no function; not loaded")
        if known.function is None:
            raise PickleError(f"makes a {known.name}, which has no place in it", known.name)
        self.count(arguments)
        return known.function(*arguments)

    def set(self, target: Any, pairs: list[Any]) -> None:
        """Put keys and values in turn into a dict."""
        if type(target) is not dict:
            raise PickleError("puts items into what is no dict; not loaded")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[hashable(key)] = value

    def remember(self, index: int) -> None:
        """Keep the top of the stack in the memo."""
        value = self.stack[-1]
        if type(value) is Unbuilt:
            value.keys.append(index)
        self.memo[index] = value

    def build(self) -> None:
        """Give what a call made its state."""
        state, target = self.whole(self.pop()), self.stack[-1]
        if type(target) is Unbuilt:
            if type(state) is tuple:
                self.count(state)
            value = self.stack[-1] = target.build(state)
            for key in target.keys:
                self.memo[key] = value
        elif type(target) is not dict or type(state) is not dict:
            # A state dict's attribute `_metadata` is all that comes here; it is ignored.
            raise PickleError("sets the state of something; not loaded")


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
