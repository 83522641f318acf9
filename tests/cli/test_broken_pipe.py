"""`resnets COMMAND | head`: a reader that closes the pipe ends the command quietly."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["info"], ["train", "--list"]])
def test_a_closed_pipe_is_no_error(words: list[str]) -> None:
    command = [sys.executable, "-m", "resnets", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(), errors) == (0, b"")
