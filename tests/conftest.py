"""Fixtures shared by all tests."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Runs in tests compute with as many threads on a busy machine, whatever runs beside them.
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import pytest
import torch
from paths import SHARED
from shared_folders import make_once

gc.disable()  # until all is imported and collected


def pytest_collection_finish() -> None:
    """What was imported and collected stays: garbage collection does not visit it in each test."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that earlier runs left in the user's cache decides anything here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Torch's own random numbers in a test are the same whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images beside the project; tests that need it skip where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a net that reads scikit-learn's digits; not to be changed."""
    from digits_run import save_digits_run

    saved = make_once(tmp_path_factory, "digits-run", save_digits_run)
    return Path(shutil.copytree(saved, tmp_path_factory.mktemp("digits") / "run"))


@pytest.fixture(scope="session")
def nested_digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder of digits in folders of some nesting, and their paths, sorted; not to be changed."""
    from bulk_runs import save_digits

    folder = tmp_path_factory.mktemp("nested")
    return folder, save_digits(folder)


@pytest.fixture(scope="session")
def bulk_rows(
    digits_run: Path,
    nested_digits: tuple[Path, list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, object]]:
    """What bulk prediction says of those digits, by the file's own name."""
    from bulk_runs import predict_here, rows

    out = tmp_path_factory.mktemp("folder") / "out"
    predict_here(digits_run, nested_digits[0], out, top=3)
    found = rows(out)
    assert [row["path"] for row in found] == nested_digits[1]
    return {row["path"].rpartition("/")[2]: row for row in found}
