"""`resnets WORDS` in a child forked from this process, which has imported what it takes.

Starting Python and importing torch is nearly all that a killed attempt would do. Only a process
without threads may be forked, so `prepare` comes first. With --devices N the launcher is such a
child, torch's own agent in it, and what that starts is forked from it in turn.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from typing import Any


def prepare() -> None:
    """Import everything; OMP_NUM_THREADS=1 was set before, so no thread is started."""
    assert os.environ["OMP_NUM_THREADS"] == "1"
    import sklearn.datasets  # noqa: F401
    import torch._dynamo  # the optimizers import it
    import torch.distributed.launcher.api  # noqa: F401


class Fork(subprocess.Popen[bytes]):
    """A Popen of (python, "-m", "resnets", *words) that forks in place of executing."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        environment, pipes, new_session = rest[5], rest[9:15], rest[20]
        self.pid = os.fork()
        if self.pid:
            self._child_created = True  # of Popen
            self._close_pipe_fds(*pipes)
            return
        try:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # as exec would
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if new_session:
                os.setsid()
            for number, stream in ((1, pipes[3]), (2, pipes[5])):
                if stream != -1:
                    os.dup2(stream, number)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            os._exit(_run(list(args[3:]), environment))
        except BaseException:
            traceback.print_exc()
            os._exit(70)


def _run(words: list[str], environment: dict[str, str] | None) -> int:
    from torch.distributed.elastic.multiprocessing import subprocess_handler

    from resnets.cli.main import main

    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    sys.argv = ["resnets", *words]
    subprocess_handler.subprocess_handler.Popen = Fork
    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    return code
