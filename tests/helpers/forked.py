"""Python programs in processes forked from one that has imported torch and resnets.

Most of what a short `resnets` command computes are imports. `Popen` and `run` stand for those of
`subprocess` where a Python program is started: [sys.executable, "-m", "resnets", ...], a script or
"-c". A server, started when first needed, forks a process for each, so each is as fresh as a new
one: its own streams, environment, folder and end. With torchrun, the processes that it starts
come from the same server. All have OMP_NUM_THREADS=1, as the server when it imported torch. Not
for tests of imports, memory, or libraries that are loaded at the start.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import types
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

SERVER = "FORK_SERVER"  # environment variable: the server's socket, for processes that it forked
PRELOAD = (
    "resnets.cli.train",
    "resnets.train.run",
    "torch.distributed.launcher.api",
    "matplotlib.figure",
    "torch.utils.tensorboard",
    "torchvision.transforms.v2.functional",
)


class Popen(subprocess.Popen):
    """subprocess.Popen of a Python program, which the server forks."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        cwd, environment = rest[4], rest[5]
        read_in, _, _, write_out, _, write_err = rest[9:15]
        program, *words = map(str, args)
        assert program == sys.executable
        assert rest[1] is None, "preexec_fn"
        request = {
            "words": words,
            "cwd": str(cwd or Path.cwd()),
            "environment": {**(environment or os.environ), "OMP_NUM_THREADS": "1"},
            "new_session": rest[20],
            "parent": os.getpid(),
            "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
        }
        streams = [read_in, write_out, write_err]
        given = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        self._server = _ask(request, given)
        self.pid = _read(self._server)
        self._child_created = True  # of subprocess
        self._close_pipe_fds(*rest[9:15])

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """The process's number and status, which the server sends when it has ended."""
        if flags & os.WNOHANG and not select.select([self._server], [], [], 0)[0]:
            return 0, 0
        return self.pid, _read(self._server)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(ended[1])
            finally:
                self._waitpid_lock.release()
        return self.returncode


def run(
    args: Any, *, capture_output: bool = False, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess:
    """subprocess.run, without `input` and `check`."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(args, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(args, process.returncode, out, err)


def children(pid: int) -> list[int]:
    """The processes that the process `pid` has started by this module and that still run."""
    with _ask({"children": pid}, []) as server:
        return [_read(server) for _ in range(_read(server))]


def _ask(request: dict[str, Any], streams: list[int]) -> socket.socket:
    """Send a request to the server; its answer comes through the connection returned."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(os.environ.get(SERVER) or _start_server())
    content = json.dumps(request).encode()
    message = struct.pack("!I", len(content)) + content
    sent = socket.send_fds(server, [message], streams)
    if sent < len(message):  # the server may have answered and closed: sending nothing would fail
        server.sendall(message[sent:])
    return server


def _read(server: socket.socket) -> int:
    return struct.unpack("!i", _receive(server, 4))[0]


@cache
def _start_server() -> str:
    """Start this process's server; returns the path of its socket."""
    folder = tempfile.TemporaryDirectory(prefix="fork-")
    address = f"{folder.name}/socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    server = subprocess.Popen(
        [sys.executable, __file__, str(listener.fileno())],
        stdin=subprocess.PIPE,  # closed when this process ends, and the server ends with it
        pass_fds=[listener.fileno()],
        env={**os.environ, "OMP_NUM_THREADS": "1", SERVER: address},
    )
    listener.close()
    atexit.register(folder.cleanup)
    atexit.register(server.communicate)
    return address


def _receive(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = connection.recv(count - len(content))
        if not part:
            raise EOFError("the fork server has ended")
        content += part
    return content


def _serve(listener: socket.socket) -> None:
    """Fork a process for each connection, and send its number and its status when it has ended."""
    for name in PRELOAD:
        importlib.import_module(name)
    gc.freeze()
    ended, wake = os.pipe()
    for end in (ended, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    running: dict[int, tuple[socket.socket, int]] = {}  # process: who waits for it, its parent
    while True:
        ready, _, _ = select.select([0, listener, ended], [], [])
        if 0 in ready:  # its other end is closed
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            return
        if ended in ready:
            os.read(ended, 4096)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            with running.pop(pid)[0] as connection:
                _send(connection, status)
        if listener in ready:
            connection, _ = listener.accept()
            request, streams = _read_request(connection)
            if "children" in request:
                pids = [
                    pid for pid, (_, parent) in running.items() if parent == request["children"]
                ]
                with connection:
                    for number in (len(pids), *pids):
                        _send(connection, number)
                continue
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                for each in (listener, connection, *(waiting for waiting, _ in running.values())):
                    each.close()
                _run(request, streams, (ended, wake))
            for stream in streams:
                os.close(stream)
            running[pid] = connection, request["parent"]
            _send(connection, pid)


def _send(connection: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # whoever started the process has ended
        connection.sendall(struct.pack("!i", number))


def _read_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    content, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    (size,) = struct.unpack("!I", content[:4])
    return json.loads(content[4:] + _receive(connection, size - len(content) + 4)), streams


def _run(request: dict[str, Any], streams: list[int], pipe: tuple[int, int]) -> NoReturn:
    """Be the process: what Python does from its start to the end of its program."""
    for number in (signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["new_session"]:
        os.setsid()
    resource.setrlimit(resource.RLIMIT_FSIZE, tuple(request["file_size"]))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for number in (*streams, *pipe):
        os.close(number)
    environment = request["environment"] | {SERVER: os.environ[SERVER]}
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["cwd"])
    unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    out = open(1, "w", closefd=False, buffering=1 if unbuffered else -1)  # noqa: SIM115
    err = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    sys.stdout = sys.__stdout__ = out
    sys.stderr = sys.__stderr__ = err
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in paths if path and path not in sys.path]
    sys.modules.pop("sitecustomize", None)
    with suppress(ImportError):
        importlib.import_module("sitecustomize")
    elastic = importlib.import_module("torch.distributed.elastic.multiprocessing")
    elastic.subprocess_handler.subprocess_handler.Popen = Popen  # of what torchrun starts
    _run_program(request["words"])
    sys.exit()


def _run_program(words: list[str]) -> None:
    """What `python WORDS` runs."""
    words = [word for word in words if word != "-u"]
    if words[0] == "-m":
        sys.argv, sys.path[0] = ["-m", *words[2:]], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    import forked  # as what the processes import, which torchrun's Popen is a class of

    forked._serve(socket.socket(fileno=int(sys.argv[1])))
