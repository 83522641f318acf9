"""What starts a command may hand it little: closed streams, no home, odd variables, signals."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_models import RESIDUAL, small_net

from resnets.cli import info
from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.export.write.trace import trace_for_any_batch
from resnets.runtime.artifact import ArtifactMetadata
from resnets.runtime.inference_module import InferenceModule
from resnets.train.guards.interrupt import Interrupted
from resnets.utils.files.write import atomic_write
from resnets.utils.machine import environment
from resnets.utils.machine.processes import deferred_signals, environment_int

SHOW_NUMBER = """
import os, sys
from resnets.cli.main import main
main(["--version"])
file = open(sys.argv[1], "w")
for number in (0, 1, 2):  # what libraries print is no part of the file
    try:
        os.write(number, b"noise")
    except OSError:
        pass
print("to nobody")
print("to nobody", file=sys.stderr)
file.write(f"{sys.stdin.read()}{file.fileno()}")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_become_files(tmp_path: Path, closed: str):
    path = tmp_path / "file"
    command = f"exec {sys.executable} -c '{SHOW_NUMBER}' {path} < /dev/null {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(path.read_text()) > 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_leave_nothing_half_written(tmp_path: Path, monkeypatch, number: int, code: int):
    def command() -> None:
        with atomic_write(tmp_path / "file") as temporary:
            temporary.write_text("half")
            signal.raise_signal(number)

    monkeypatch.setattr(info, "command", command)
    assert main(["info"]) == code
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is signal.SIG_DFL


class Signals:
    """A signal arrives in its destructor."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_in_a_destructor_ends_the_command(number: int, code: int, monkeypatch, capfd):
    def command() -> None:
        Signals(number)
        time.sleep(30)

    monkeypatch.setattr(info, "command", command)
    assert main(["info"]) == code
    assert "Exception ignored" not in capfd.readouterr().err


@pytest.fixture
def not_in_background() -> Iterator[None]:
    """SIGINT is not ignored, as it is in a job in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("not_in_background")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_while_an_error_is_reported_ends_the_command(number: int, code: int, monkeypatch):
    class UnluckyError(ConfigError):
        def __str__(self) -> str:
            signal.raise_signal(number)
            return ""

    def command() -> None:
        raise UnluckyError

    monkeypatch.setattr(info, "command", command)
    assert main(["info"]) == code


def test_ignored_signals_stay_ignored(monkeypatch):
    monkeypatch.setattr(info, "command", lambda: signal.raise_signal(signal.SIGHUP) or 0)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert main(["info"]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("rank", "printed"), [("0", "stopped at step 3\n"), ("1", "")])
def test_a_stopped_run_is_reported_by_one_process(rank, printed, monkeypatch, capsys):
    def stop() -> int:
        raise Interrupted("stopped at step 3", 143)

    monkeypatch.setattr(info, "command", stop)
    monkeypatch.setenv("RANK", rank)
    assert main(["info"]) == 143
    assert capsys.readouterr() == (printed, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_wait_while_native_code_calls_python(number: int):
    done = []

    def end(*_: object) -> None:
        raise InterruptedError

    def trace() -> None:
        with deferred_signals():
            signal.raise_signal(number)
            done.append("the block")

    before = signal.signal(number, end)
    try:
        with pytest.raises(InterruptedError):
            trace()
        assert done == ["the block"]
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, before)


@pytest.mark.usefixtures("not_in_background")
def test_exporting_is_not_interrupted_within_torch(monkeypatch):
    inside: list[object] = []
    export = torch.export.export

    def watched(*words: object, **options: object) -> object:
        inside.append(signal.getsignal(signal.SIGINT))
        return export(*words, **options)

    monkeypatch.setattr(torch.export, "export", watched)
    net = small_net(RESIDUAL)
    metadata = ArtifactMetadata.from_model(net, "torch", "float32")
    trace_for_any_batch(InferenceModule(net), metadata.preprocess)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert inside != [signal.default_int_handler]


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "run", ""],
        ["predict", " ", "x.png"],
        ["train", "digits", "--out", ""],
        ["train", "digits", "--out="],
        ["predict", "~nobody-is-called-so/run", "x.png"],
    ],
)
def test_empty_arguments_and_unknown_homes_are_bad_usage(words: list[str], capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_two_commands_in_one_process_log_each_line_once():
    program = (
        "import logging; from resnets.cli.main import main; from resnets.cli import process;"
        "process.log_to_stderr(); main(['train', '--list']);"
        "logging.getLogger('resnets').warning('twice?')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.count("twice?") == 1


def test_errors_are_one_line_for_any_name(capsys):
    assert main(["predict", "none\nresnets predict: all is well", "x.png"]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("size", ["two", "2", "0"])
def test_odd_variables_of_a_launcher_are_one_line(size: str, monkeypatch, tmp_path: Path, capsys):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", size)
    out = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["train", "digits", "--iterations", "1", *out]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if not line.startswith("training ")] == said[-1:]
    with pytest.raises(ConfigError):
        environment_int("RANK")


@pytest.fixture
def homeless(monkeypatch, tmp_path: Path) -> Path:
    """No home folder is known, as of a number without a user in a container; temporary files."""

    def nobody(number: int) -> None:
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME", "RESNETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment._temporary_cache.cache_clear()
    yield tmp_path
    environment._temporary_cache.cache_clear()


def test_without_a_home_the_cache_is_a_private_temporary_folder(homeless: Path):
    assert environment.cache_folder().parent == homeless
    assert environment.cache_folder().stat().st_mode & 0o777 == 0o700
    (environment.cache_folder() / "file").write_text("kept")
    environment._temporary_cache.cache_clear()  # as another process
    assert (environment.cache_folder() / "file").read_text() == "kept"


@pytest.mark.parametrize("planted", ["open", "link"])
def test_a_cache_that_others_could_write_is_not_used(homeless: Path, planted: str):
    place = homeless / f"resnets-{os.geteuid()}"
    if planted == "open":
        place.mkdir()
        place.chmod(0o777)
    else:
        (homeless / "theirs").mkdir(mode=0o700)
        place.symlink_to(homeless / "theirs")
    assert environment.cache_folder().resolve() not in (place.resolve(), place)
    assert environment.cache_folder().stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], pytest.param(["info"], marks=pytest.mark.ci), ["train", "--list"]],
)
def test_a_closed_pipe_is_not_an_error(words: list[str]) -> None:
    command = [sys.executable, "-m", "resnets", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(), errors) == (0, b"")
