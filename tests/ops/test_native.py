"""The cache of compiled kernels: what is loaded from it, and what is rebuilt."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from paths import HELPERS

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="no C compiler here"
)

FLIP = """
from resnets.ops import compiler as native
found = native.load_kernel("flip")
print(found.library is not None, found.reason, found.note, sep="|")
"""


def run_kernel(cache: Path, code: str = FLIP, **environment: str) -> list[str]:
    """[loaded, reason, note] of the flip kernel in a fresh process whose cache is `cache`."""
    done = forked.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RESNETS_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


def libraries(cache: Path) -> list[Path]:
    return sorted(cache.glob("native-*/*"))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    cache = tmp_path_factory.mktemp("kernels")
    assert run_kernel(cache) == ["True", "", ""]
    return cache


@pytest.fixture
def cache(built, tmp_path) -> Path:
    shutil.copytree(built, tmp_path / "cache")
    return tmp_path / "cache"


def test_a_built_kernel_is_cached_for_this_user_alone(built):
    (library,) = libraries(built)
    assert library.parent.stat().st_mode & 0o077 == 0
    before = library.stat().st_mtime_ns
    assert run_kernel(built) == ["True", "", ""]
    assert library.stat().st_mtime_ns == before


@pytest.mark.parametrize("keep", [0, 1, 1000, -1])
def test_a_cut_library_is_rebuilt(cache, keep):
    (library,) = libraries(cache)
    whole = library.read_bytes()
    library.write_bytes(whole[:keep])
    assert run_kernel(cache) == ["True", "", ""]
    assert len(library.read_bytes()) == len(whole)


def test_a_damaged_library_is_rebuilt(cache):
    (library,) = libraries(cache)
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    assert run_kernel(cache)[0] == "True"
    assert library.read_bytes() != bytes(content)


def test_a_library_of_others_is_not_loaded(cache, tmp_path):
    (library,) = libraries(cache)
    planted = tmp_path / "planted.so"
    library.rename(planted)
    library.symlink_to(planted)
    assert run_kernel(cache)[0] == "True"
    assert not library.is_symlink()
    library.chmod(0o777)  # others could have written it
    assert run_kernel(cache)[0] == "True"
    assert library.stat().st_mode & 0o077 == 0
    if os.geteuid() == 0:
        os.chown(library, 65534, 65534)
        assert run_kernel(cache)[0] == "True"
        assert library.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root to give a folder away")
def test_a_folder_of_others_is_not_used(cache):
    (folder,) = cache.glob("native-*")
    (library,) = libraries(cache)
    library.write_bytes(b"planted")
    os.chown(folder, 65534, 65534)
    loaded, reason, note = run_kernel(cache)
    assert (loaded, reason) == ("True", "")
    assert str(folder) in note
    assert library.read_bytes() == b"planted"


@pytest.mark.ci
def test_processes_that_build_at_once_do_not_disturb_each_other(tmp_path):
    environment = {**os.environ, "RESNETS_CACHE": str(tmp_path)}
    racing = [
        forked.Popen(
            [sys.executable, "-c", FLIP], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert [each.communicate()[0].strip() for each in racing] == ["True||"] * 3
    assert len(libraries(tmp_path)) == 1  # and no temporary folder is left


def test_a_compiler_may_have_arguments_and_other_ones_make_other_files(cache):
    assert run_kernel(cache, CC="cc -DANY=1") == ["True", "", ""]
    assert len(libraries(cache)) == 2


def test_the_reason_why_a_kernel_is_unused_is_reported(cache, tmp_path):
    for environment in ({"RESNETS_NATIVE": "0"}, {"CC": "no-such-compiler"}, {"CC": ""}):
        loaded, reason, _ = run_kernel(cache, **environment)
        assert loaded == "False"
        assert reason
    failing = tmp_path / "cc"
    failing.write_text(
        "#!/bin/sh\ncase $1 in --version) echo 1;; *) echo error: no space >&2; exit 3;; esac\n"
    )
    failing.chmod(0o755)
    loaded, reason, _ = run_kernel(cache, CC=str(failing))
    assert loaded == "False"
    assert "no space" in reason
    done = forked.run(
        [sys.executable, "-m", "resnets", "info", "--kernels", "--json"],
        env={**os.environ, "RESNETS_CACHE": str(cache), "CC": str(failing)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["kernel"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {"norm", "conv_weights", "conv_weights_avx512", "flip", "resize", "jpeg"}
    assert not any(row["used"] for row in rows.values())
    assert "no space" in rows["norm"]["reason"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kernel", "calls"),
    [("norm", 400), ("flip", 1500), ("resize", 1500), ("jpeg", 1500), ("conv_weights", 400)],
)
def test_sanitizers_find_nothing_in_random_calls(kernel, calls):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    script = HELPERS / "fuzz_native.py"
    done = subprocess.run(
        [sys.executable, str(script), "--calls", str(calls), "--kernel", kernel],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
