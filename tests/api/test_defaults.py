"""A command and its function in Python have the same defaults."""

import importlib
import inspect

import pytest

import resnets
from resnets.cli import data as data_commands
from resnets.cli import study as study_commands
from resnets.cli.usage.arguments import module_name

ANALYSES = (
    "curvature", "effective", "gradients", "identity", "inference", "landscape", "responses",
    "shattered", "similarity", "unravelled",
)  # fmt: skip
PAIRS = {
    **{name: (getattr(resnets, name), name) for name in ("evaluate", "export", "features")},
    **{name: (getattr(resnets, name), name) for name in ("predict", "train")},
    "recompute-norm": (resnets.recompute_norm, "recompute-norm"),
    "push": (resnets.push, "push"),
    "tune": (resnets.tune, "tune"),
    "data check": (resnets.check_data, data_commands.Check),
    "data pack": (resnets.pack_data, data_commands.Pack),
    "folds": (resnets.study.folds, "folds"),
    "study depth": (resnets.study.depth, study_commands.Depth),
    "study shortcuts": (resnets.study.shortcuts, study_commands.Shortcuts),
    "study forms": (resnets.study.forms, study_commands.Forms),
    "study data": (resnets.study.data, study_commands.Data),
    **{
        f"study {name}": (getattr(resnets.study, name), getattr(study_commands, name.capitalize()))
        for name in ANALYSES
    },
}
# Positional arguments that an option of the command (--resume) replaces; a file that only the
# command has to write.
REQUIRED = {("folds", "data"), ("study data", "data"), ("recompute-norm", "out")}


def plain(default):
    """A default as both spell it: text "a,b" is a sequence, and nothing is nothing."""
    if isinstance(default, str) and "," in default:
        default = tuple(default.split(","))
    if isinstance(default, tuple) and len(default) == 1:
        (default,) = default
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    return default if is_number or default else None


@pytest.mark.parametrize("name", PAIRS)
def test_defaults_of_the_command_are_those_of_the_function(name):
    function, command = PAIRS[name]
    if isinstance(command, str):
        command = importlib.import_module(module_name(command)).command
    ours, theirs = (inspect.signature(each).parameters for each in (function, command))
    shared = [each for each in ours if each in theirs and (name, each) not in REQUIRED]
    assert len(shared) >= 5
    for each in shared:
        if ours[each].kind is not inspect.Parameter.VAR_KEYWORD:
            assert plain(ours[each].default) == plain(theirs[each].default), each
