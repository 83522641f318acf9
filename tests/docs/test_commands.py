"""Commands in README.md and docs/ can be pasted: no accidental pipes, no "...", known options."""

import re
import shlex
import tomllib

import pytest
import yaml
from doc_blocks import blocks, commands
from paths import ROOT

from resnets.cli.usage.arguments import read_command
from resnets.cli.usage.check import check_arguments

COMMANDS = [(place, line) for place, line, _ in commands()]
OURS = [(place, line) for place, line in COMMANDS if line.startswith("resnets ")]
# Of code that is not run: why not. Anything else has to run.
REASONS = {
    "needs a network",
    "needs GPUs",
    "needs a cluster",
    "needs another program",
    "takes minutes",
    "installs packages",
    "runs tests",
    "uses names of yours",
}
LANGUAGES = {"bash", "console", "json", "markdown", "python", "text", "toml", "yaml"}
# Characters of a code block that a laptop's window shows beside the site's two columns.
CODE_WIDTH = 92


def test_there_are_commands():
    assert len(OURS) > 40


def test_blocks_have_a_language_and_a_reason_not_to_run():
    for block in blocks():
        assert block.language in LANGUAGES, block.place
        assert block.reason is None or block.reason in REASONS, block.place


def test_comments_of_code_are_seen_without_scrolling():
    pages = [block for block in blocks("bash", "python") if block.page.parent != ROOT]
    lines = [(block.place, line) for block in pages for line in block.text.splitlines()]
    wide = [each for each in lines if "# " in each[1] and len(each[1]) > CODE_WIDTH]
    assert not wide


@pytest.mark.parametrize(("place", "command"), OURS)
def test_commands_can_be_pasted_into_a_shell(place, command):
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)  # comments are dropped
    lexer.whitespace_split = True
    assert not re.search(r"#.*\bresnets [a-z]+ ", command), "a second command on the line"
    words = list(lexer)
    assert not [word for word in words if set(word) <= set("|&;<>()")], "a shell would take these"
    assert not [word for word in words if "..." in word or word[0] in "[{"], "not a command yet"
    assert not [word for word in words if any(sign in word for sign in "*?{")], "globs differ"
    check_arguments(read_command(words[1]), words[2:])


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [shlex.split(line, comments=True) for _, line in COMMANDS if line.startswith("make ")]
    assert named
    for words in named:
        assert {word for word in words[1:] if "=" not in word} <= targets


def test_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = "\n".join(line for _, line in COMMANDS)
    named = re.findall(r"(?:resnets|\.)\[([a-z0-9,]+)\]'", lines)
    assert named
    for group in named:
        assert set(group.split(",")) <= set(project["optional-dependencies"])


def test_yaml_can_be_read():
    for block in blocks("yaml"):
        assert yaml.safe_load(block.text)
