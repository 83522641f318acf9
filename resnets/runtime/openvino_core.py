"""One OpenVINO core per process, so that the stack of signal handlers stays valid.

OpenVINO's CPU plugin gives the thread that loads it an alternate signal stack (AMX needs a large
one), and frees it with its `Core` (sigstack_manager.cpp of the plugin,
https://github.com/openvinotoolkit/openvino/pull/11894). Of two cores the first may be
freed first: the thread then has a dangling signal stack, and the next signal, such as the SIGTERM
that stops a server, crashes the process. So there is one core that is never freed, and code that
creates cores of its own runs in a thread that receives no signals afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_LOCK = threading.Lock()


def shared_core() -> Any:
    """The `openvino.Core` of the process with its CPU plugin loaded; created on first use."""
    with _LOCK:
        return _create_core()


def run_in_new_thread(function: Callable[[], T]) -> T:
    """Return `function()`, run in a new thread; its exceptions are raised here."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


@lru_cache
def _create_core() -> Any:
    import openvino as ov

    assert ov.Tensor(np.zeros(1, np.uint8)).data is not None  # see above
    core = ov.Core()
    # Memory-mapped weights would change, or crash the process, if the file is overwritten.
    core.set_property({"ENABLE_MMAP": False})
    run_in_new_thread(lambda: core.get_property("CPU", "FULL_DEVICE_NAME"))
    return core
