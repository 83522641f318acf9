"""The commands before a commit are those of `make lint`."""

import re

import yaml
from paths import ROOT


def test_pre_commit_runs_what_make_lint_runs():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    linted = [line.strip().removeprefix("$(BIN)/") for line in recipe[1].splitlines()]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks["repos"][0]["hooks"]]
    assert entries == linted
