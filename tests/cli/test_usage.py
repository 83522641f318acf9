"""`--help` and usage errors of commands: one line, the argument named, exit code 2."""

from __future__ import annotations

import pytest

from resnets.cli.main import COMMANDS, main
from resnets.cli.usage.arguments import Command, read_command
from resnets.cli.usage.check import check_arguments
from resnets.cli.usage.help import MAX_WIDTH, format_help
from resnets.config import ConfigError


def all_commands() -> list[Command]:
    commands = [read_command(name) for name in COMMANDS]
    return [below for each in commands for below in (each, *each.subcommands.values())]


@pytest.mark.parametrize("command", all_commands(), ids=lambda each: each.name)
@pytest.mark.parametrize("width", [60, 80, 200])
def test_help_names_each_argument_and_fits_the_terminal(command: Command, width: int) -> None:
    text = format_help(command, width)
    for argument in command.arguments:
        assert argument.meaning
        assert all(name in text for name in argument.names)
    names = sum(len(each.choices) > 0 for each in command.arguments)  # not broken within choices
    wide = [line for line in text.splitlines() if len(line) > min(width, MAX_WIDTH)]
    assert len(wide) <= names
    for internal in ("{None}", "STUDY.", "TASK.", "%%", "(default: None)"):
        assert internal not in text


def test_help_is_printed_anywhere_in_the_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "--epochs", "3", "-h"]) == 0
    assert capsys.readouterr().out.startswith("usage: resnets train [RECIPE]")
    assert main(["study", "depth", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: resnets study depth")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("train --epoch 3", "--epoch"),
        ("train -x", "-x"),
        ("train digits --epochs three", "--epochs"),
        ("train digits --seed 1.5", "--seed"),
        ("train digits --seed", "--seed"),
        ("train digits --seed --list", "--seed"),
        ("train digits --list=yes", "--list"),
        ("predict", "WEIGHTS"),
        ("predict a b --top_k many", "--top_k"),
        ("predict a b --format=xml", "--format"),
        ("features a b c", "c"),
        ("study", "subcommand"),
        ("study depht", "depht"),
        ("study depth --seeds", "--seeds"),
        ("data pack", "SOURCE"),
        ("recompute-norm run --data d", "--out"),
        ("push run", "--to"),
    ],
)
def test_a_usage_error_is_one_line(
    capsys: pytest.CaptureFixture[str], words: str, named: str
) -> None:
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert named in err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("predict", "model a.png --top 3 b.png -"),  # options between images; standard input
        ("predict", "model - --top_k=3"),
        ("train", "digits --hang-after -1 --epochs None"),
        ("evaluate", "run --classes-from a b --flip"),
        ("study", "depth --set optim.lr=0.1 --set batch_size=8"),
        ("data", "check photos"),
    ],
)
def test_what_tyro_accepts_is_accepted(name: str, words: str) -> None:
    check_arguments(read_command(name), words.split())


def test_an_empty_value_is_refused() -> None:
    for words in (["--out="], ["--out", " "], [""]):
        with pytest.raises(ConfigError):
            check_arguments(read_command("train"), words)
