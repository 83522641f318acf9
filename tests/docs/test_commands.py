"""Commands in README.md and docs/ can be pasted: no accidental pipes, no "...", known options."""

import importlib
import re
import shlex

import pytest
import tyro
from paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^( *)```[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def commands():
    """(page, command) of each `resnets` line in a fenced block, continued lines joined."""
    for page in PAGES:
        for block in FENCED.findall(page.read_text(encoding="utf-8")):
            for line in block[1].replace("\\\n", " ").splitlines():
                words = line.strip().removeprefix("$ ")
                if words.startswith("resnets "):
                    yield page.name, words


COMMANDS = list(commands())


def test_there_are_commands():
    assert len(COMMANDS) > 40


@pytest.mark.filterwarnings("ignore:get_parser")
@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_command_does_what_it_seems_to_when_pasted(page, command):
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)  # comments are dropped
    lexer.whitespace_split = True
    words = list(lexer)
    assert not [word for word in words if set(word) <= set("|&;<>()")], "a shell would take these"
    assert not [word for word in words if "..." in word or word[0] in "[{"], "not a command yet"
    assert not [word for word in words if any(sign in word for sign in "*?{")], "globs differ"
    module = importlib.import_module(f"resnets.cli.{words[1]}")
    tyro.extras.get_parser(module.command).parse_args(words[2:])


def test_make_targets_of_the_docs_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(
            r"^make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert target in targets, page.name
