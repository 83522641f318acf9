"""Whether torch has read the variable that lets operators run on the CPU, or a line says not."""

import os
import subprocess
import sys

import pytest

from resnets.utils.machine import mps_fallback

# The order of imports on a Mac, and what is printed when MPS is picked twice.
CODE = """
import sys
platform, sys.platform = sys.platform, "darwin"
for name in sys.argv[1:]:
    if name == "torch":
        sys.platform = platform
    __import__(name)
    sys.platform = "darwin"
sys.platform = platform

import logging
import os
from types import SimpleNamespace

import torch
from resnets.utils.machine import environment

torch.empty = lambda *_, device: SimpleNamespace(device=torch.device("mps", 0))
logging.basicConfig(stream=sys.stdout, format="%(levelname)s")
environment.pick_device("mps")
environment.pick_device("mps")
print(os.environ["PYTORCH_ENABLE_MPS_FALLBACK"])
"""


@pytest.mark.parametrize(
    ("imported", "printed"),
    [(["torch", "resnets"], ["WARNING", "1"]), (["resnets", "torch"], ["1"])],
)
def test_a_variable_that_torch_has_not_read_is_reported_once(imported, printed) -> None:
    clean = {key: value for key, value in os.environ.items() if key != mps_fallback.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *imported],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == printed


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_variable_of_the_user_stays(value, monkeypatch, caplog) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv(mps_fallback.VARIABLE, value)
    mps_fallback.enable()
    mps_fallback.warn_if_late()
    assert os.environ[mps_fallback.VARIABLE] == value
    assert not caplog.records


def test_other_systems_have_no_variable(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(mps_fallback.VARIABLE, raising=False)
    mps_fallback.enable()
    assert mps_fallback.VARIABLE not in os.environ
