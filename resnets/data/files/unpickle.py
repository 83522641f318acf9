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

import struct
from collections.abc import Callable
from typing import Any

from resnets.data.files.pickle_machine import PickleError, PickleMachine, Vocabulary
from resnets.data.files.pickle_opcodes import OPCODES

MOST_STEPS = 4_000_000  # instructions; a checkpoint has some ten thousand, CIFAR-100 300,000
STOP = ord(".")


class Unpickler(PickleMachine):
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
        super().__init__(data, vocabulary, persistent)
        self.steps = 0
        self.position = 0

    def load(self) -> Any:
        """The value of the next pickle; PickleError where it is damaged or asks for more."""
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
                if self.steps > MOST_STEPS:
                    raise PickleError(f"more than {MOST_STEPS:,} instructions; not loaded")
        except PickleError:
            raise
        except (IndexError, struct.error):
            raise PickleError("cut short or damaged") from None
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise PickleError(f"damaged ({type(error).__name__}: {error})") from None


def unpickle(data: bytes | memoryview, vocabulary: Vocabulary) -> Any:
    """The value of the one pickle in `data`; PickleError as `Unpickler.load`."""
    return Unpickler(data, vocabulary).load()
