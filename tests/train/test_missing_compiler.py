"""compile=auto and compile=on on a GPU without what Triton needs: itself, a C compiler, headers."""

import dataclasses
import shutil
import sysconfig
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from resnets.config import ConfigError, Recipe, replace_fields
from resnets.models import build
from resnets.recipes import recipe
from resnets.train import execution_plan
from resnets.train.execution_plan import ExecutionPlan, choose_plan

CUDA = torch.device("cuda", 0)
LONG = {"duration": "100000000it", "compile": "auto", "precision": "float32"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine with a GPU, Triton, Python's headers and gcc, and without clang and CC."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    monkeypatch.setattr(execution_plan.environment, "pick_device", lambda _: CUDA)
    monkeypatch.setattr(execution_plan, "find_spec", lambda name: ModuleSpec(name, None))
    for name in ("benchmark", "allow_tf32"):  # which plans set: restored later
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.delenv("CC", raising=False)
    provide(monkeypatch, "gcc")
    return monkeypatch


def provide(monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    """Let `programs` be the only ones in PATH."""
    monkeypatch.setattr(shutil, "which", lambda name: name if name in programs else None)


def plan(settings: Recipe) -> ExecutionPlan:
    return choose_plan(settings, build(settings.model), 1269, "cuda")


@pytest.mark.parametrize("missing", ["triton", "compiler", "CC", "headers"])
def test_auto_does_not_compile_with_a_line_and_on_is_refused(gpu, missing, caplog, tmp_path):
    if missing == "triton":
        gpu.setattr(execution_plan, "find_spec", lambda name: None)
    elif missing == "compiler":
        provide(gpu, "g++", "c++")  # of C++ only
    elif missing == "CC":
        gpu.setenv("CC", "icx")  # Triton calls it, whatever else is there
    else:
        gpu.setattr("sys.platform", "linux")
        (tmp_path / "Python.h").unlink()
    settings = replace_fields(recipe("digits", "cifar-resnet8"), LONG)
    with caplog.at_level("WARNING", "resnets"):
        assert not plan(settings).compiled
    assert len(caplog.records) == 1
    with pytest.raises(ConfigError):
        plan(dataclasses.replace(settings, compile="on"))


@pytest.mark.parametrize("programs", [("gcc",), ("clang",)])
def test_auto_compiles_a_long_run_with_either_compiler(gpu, programs, caplog):
    provide(gpu, *programs)
    settings = replace_fields(recipe("digits", "cifar-resnet8"), LONG)
    assert plan(settings).compiled
    assert plan(dataclasses.replace(settings, compile="on", duration="1it")).compiled
    assert not caplog.records
