"""Devices, malloc and the cache folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resnets.config import ConfigError
from resnets.utils.machine import environment


def test_devices_that_do_not_work_are_rejected():
    assert environment.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="--device banana"):
        environment.pick_device("banana")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cuda"):
            environment.pick_device("cuda")


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_cached_memory_of_either_kind_of_gpu_is_released(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: released.append("mps"))
    environment.release_cached_memory()
    assert released == [kind]


def keeps_pages(**environment):
    code = "from resnets.utils.machine import environment; print(environment.tune_malloc())"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip() == "True"


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_allocator_is_set_unless_the_user_has():
    assert keeps_pages()
    assert not keeps_pages(MALLOC_TRIM_THRESHOLD_="100000")


@pytest.mark.parametrize(
    ("own", "xdg", "folder"),
    [("/o", "/x", "/o"), ("", "/x", "/x/resnets"), (None, "", "~/.cache/resnets")],
)
def test_exports_and_downloads_share_one_cache_folder(own, xdg, folder, monkeypatch):
    for name, value in (("RESNETS_CACHE", own), ("XDG_CACHE_HOME", xdg)):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, False)
    assert environment.cache_folder() == Path(folder).expanduser()


def test_the_environment_describes_what_results_depend_on():
    described = environment.describe(torch.device("cpu"))
    assert described["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "thread" in described["device"]


TEAMS = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
import torch
from resnets.utils.machine.environment import single_threaded_pool

big = torch.ones(1 << 22)
threads = lambda: len(os.listdir("/proc/self/task"))
big.aminmax()
pool, plain = single_threaded_pool(2, "pool"), ThreadPoolExecutor(1)
plain.submit(int).result()
before = threads()
for _ in range(9):
    pool.submit(big.aminmax).result()
assert threads() == before, "a thread of the pool got a team"
seen = []
other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
other.start()
other.join()
assert (torch.get_num_threads(), *seen) == (2, 2), seen
plain.submit(big.aminmax).result()
assert threads() == before + 1, "no team where one was expected: this test shows nothing"
"""


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_single_threaded_pools_start_no_openmp_threads():
    env = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", TEAMS], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19", "535.104.05"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release",
            "570.86.15",
        ),
        ("something else", None),
    ],
)
def test_the_driver_is_read_from_proc(line, version, tmp_path):
    path = tmp_path / "version"
    path.write_text(f"{line}\nGCC version:  gcc version 12.3.0\n")
    assert environment._nvidia_driver(path) == version


def test_the_commit_of_a_working_tree_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (tmp_path / "a.py").write_text("")
    assert environment.source_commit(tmp_path) == {}
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    found = environment.source_commit(tmp_path)["commit"]
    assert len(found) == 10
    assert head.stdout.startswith(found)
    (tmp_path / "a.py").write_text("changed")
    assert environment.source_commit(tmp_path)["commit"] == f"{found}-changed"
