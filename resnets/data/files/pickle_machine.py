"""The stack machine that a pickle is a program for, and the names that the program may use.

It builds containers, numbers and text; every other construct must be in the `Vocabulary` of its
caller. The opcodes and the loop over them are in `unpickle`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

MAX_KEY_ITEMS = 16  # of a tuple used as key
MAX_COPIES = 4  # bytes that constructs may copy, in lengths of the pickle


class PickleError(ValueError):
    """A pickle that is damaged or has constructs that its reader does not know.

    unknown: "module.name" of the class or function that is not in the vocabulary, else None.
    """

    def __init__(self, message: str, unknown: str | None = None) -> None:
        super().__init__(message)
        self.unknown = unknown


class Known:
    """A class or function that a pickle may name; `function` is called in its place."""

    __slots__ = ("function", "name")

    def __init__(self, name: str, function: Callable[..., Any] | None = None) -> None:
        self.name, self.function = name, function


class Unbuilt:
    """The result of a call whose state follows; `build` converts the state to the value.

    empty: the value if there is no state, as for an object without attributes.
    """

    __slots__ = ("build", "empty", "keys")

    def __init__(self, build: Callable[[Any], Any], empty: Any = None) -> None:
        self.build, self.empty = build, empty
        self.keys: list[int] = []  # of the memo entries that the value replaces


# The classes and functions that a pickle may name, by "module.name".
Vocabulary = Mapping[str, Known]


class PickleMachine:
    """Stack, marks and memo of a pickle in `data`, and the operations on them.

    persistent: resolves the persistent ids of torch's files.
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
        """Clear stack, marks and memo for the next pickle."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def count(self, arguments: tuple[Any, ...]) -> None:
        """Count data that a construct may copy; a pickle can pass the same data repeatedly."""
        self.copied += sum(len(each) for each in arguments if type(each) in (str, bytes, list))
        if self.copied > MAX_COPIES * len(self.data) + 65536:
            raise PickleError("it copies its data again and again; not loaded")

    def push(self, value: Any) -> None:
        """Push a value on the stack."""
        self.stack.append(value)

    def take(self, at: int, size: int) -> tuple[memoryview, int]:
        """Return the next `size` bytes, and the offset after them."""
        end = at + size
        if size < 0 or end > len(self.data):
            raise PickleError("cut short or damaged")
        return self.data[at:end], end

    def sized(self, at: int, format: str) -> tuple[memoryview, int]:
        """Return bytes whose length precedes them, and the offset after them."""
        (size,) = struct.unpack_from(format, self.data, at)
        return self.take(at + struct.calcsize(format), size)

    def line(self, at: int) -> tuple[str, int]:
        """Return the text up to the end of the line, and the offset after it."""
        end = at
        while self.data[end] != 10:
            end += 1
        return bytes(self.data[at:end]).decode("latin1").rstrip("\r"), end + 1

    def items(self) -> list[Any]:
        """Pop the items above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return [self.whole(item) for item in items]

    def whole(self, value: Any) -> Any:
        """Return the value; raise PickleError for a call whose state is missing."""
        if type(value) is Unbuilt:
            if value.empty is not None:
                return value.empty
            raise PickleError("it creates an object without contents; not loaded")
        return value

    def pop(self) -> Any:
        """Pop a value, but none below the last mark."""
        stack = self.stack
        if self.marks and len(stack) <= self.marks[-1]:
            raise PickleError("cut short or damaged")
        return stack.pop()

    def find(self, module: str, name: str) -> Known:
        """Return the entry of a class or function; raise PickleError if there is none."""
        qualified = f"{module}.{name}"
        entry = self.vocabulary.get(qualified)
        if entry is None:
            shown = format_class_name(qualified)
            raise PickleError(f"contains {shown}, which is not allowed in it", shown)
        return entry

    def call(self, known: Any, arguments: Any) -> Any:
        """Call the function for a class or function."""
        if type(known) is not Known or type(arguments) is not tuple:
            raise PickleError("it calls an object that is not a function; not loaded")
        if known.function is None:
            raise PickleError(f"it creates a {known.name}, which is not allowed in it", known.name)
        self.count(arguments)
        return known.function(*arguments)

    def set(self, target: Any, pairs: list[Any]) -> None:
        """Set keys and values, alternating in `pairs`, in a dict."""
        if type(target) is not dict:
            raise PickleError("it adds items to an object that is not a dict; not loaded")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[hashable(key)] = value

    def remember(self, index: int) -> None:
        """Store the top of the stack in the memo."""
        value = self.stack[-1]
        if type(value) is Unbuilt:
            value.keys.append(index)
        self.memo[index] = value

    def build(self) -> None:
        """Apply the state on the stack to the result of a call below it."""
        state, target = self.whole(self.pop()), self.stack[-1]
        if type(target) is Unbuilt:
            if type(state) is tuple:
                self.count(state)
            value = self.stack[-1] = target.build(state)
            for key in target.keys:
                self.memo[key] = value
        elif type(target) is not dict or type(state) is not dict:
            # Only a state dict's attribute `_metadata` comes here; it is ignored.
            raise PickleError("it sets the state of an object; not loaded")


def format_class_name(name: str) -> str:
    """Format the name of a class for a message: printable, at most a line."""
    return "".join(char if char.isprintable() else "?" for char in name[:120])


def hashable(key: Any) -> Any:
    """Return `key` if it is hashed in constant time: text, number, None, or a short tuple."""
    kind = type(key)
    if kind in (str, bytes, int, float, bool, type(None)):
        return key
    flat = kind is tuple and len(key) <= MAX_KEY_ITEMS
    if flat and all(type(item) in (str, bytes, int, float, bool, type(None)) for item in key):
        return key
    raise PickleError(f"it contains a dict key of type {kind.__name__}; not loaded")
