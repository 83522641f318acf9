"""Devices, number formats and the allocator."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resnets import host
from resnets.config import ConfigError


def test_devices_that_do_not_work_are_refused():
    assert host.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="--device banana: not usable here"):
        host.pick_device("banana")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cuda: not usable here"):
            host.pick_device("cuda")


def test_precision_is_resolved_and_can_be_forced():
    cpu = torch.device("cpu")
    assert host.pick_precision("float32", cpu) == "float32"
    assert host.pick_precision("bfloat16", cpu) == "bfloat16"
    assert host.pick_precision("auto", cpu) in ("float32", "bfloat16")


def keeps_pages(**environment):
    code = "from resnets import host; print(host.keep_pages())"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip() == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_allocator_is_set_unless_the_user_has():
    assert keeps_pages()
    assert not keeps_pages(MALLOC_TRIM_THRESHOLD_="100000")


@pytest.mark.parametrize(
    ("own", "xdg", "folder"),
    [("/o", "/x", "/o"), ("", "/x", "/x/resnets"), (None, "", "~/.cache/resnets")],
)
def test_one_cache_for_what_is_made_and_what_is_fetched(own, xdg, folder, monkeypatch):
    for name, value in (("RESNETS_CACHE", own), ("XDG_CACHE_HOME", xdg)):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, False)
    assert host.cache() == Path(folder).expanduser()


def test_description_names_what_a_run_depends_on():
    described = host.describe(torch.device("cpu"))
    assert described["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "thread" in described["device"]
