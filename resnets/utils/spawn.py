"""Starting processes from scripts and notebooks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_main() -> Iterator[None]:
    """Context in which spawned processes do not import the program's main module.

    Python runs it again in each of them, which a script without `if __name__ == "__main__"` does
    not survive: each process would start the whole work anew. Functions and arguments of such
    processes must come from modules that can be imported.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
