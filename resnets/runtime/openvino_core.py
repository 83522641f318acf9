"""One OpenVINO for the process, which leaves the stack that signal handlers run on alone.

OpenVINO's CPU plugin gives the thread that loads it an alternate signal stack (AMX needs a large
one), and takes the memory back when its `Core` goes (sigstack_manager.cpp of the plugin,
https://github.com/openvinotoolkit/openvino/pull/11894). Of two cores the first may go first: then
the thread is left with a stack that is no more, and the next signal, such as the SIGTERM that is
to end a server gently, ends the process with a segmentation fault. So there is one core, never let
go, and whatever makes others of its own runs on a thread that receives no signal afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_FIRST = threading.Lock()


def core() -> Any:
    """The process's `openvino.Core`, its CPU plugin loaded; made at the first call."""
    with _FIRST:
        return _core()


def apart(work: Callable[[], T]) -> T:
    """`work()`, on a thread that ends with it; what it raises is raised here."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


@lru_cache
def _core() -> Any:
    import openvino as ov

    assert ov.Tensor(np.zeros(1, np.uint8)).data is not None  # see above
    made = ov.Core()
    # Mapped weights would change, or end the process, with a file rewritten in place.
    made.set_property({"ENABLE_MMAP": False})
    apart(lambda: made.get_property("CPU", "FULL_DEVICE_NAME"))
    return made
