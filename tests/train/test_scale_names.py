"""Several processes, and a resume, over images and classes whose names are not UTF-8."""

import os
from pathlib import Path

import numpy as np
import pytest
from compare_runs import difference
from PIL import Image
from scale_runs import TRAIN, finish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders in names of Latin-1."""
    root, rng = tmp_path_factory.mktemp("names"), np.random.default_rng(0)
    for number, name in enumerate((b"caf\xe9", b"th\xe9")):
        folder = root / os.fsdecode(name)
        folder.mkdir()
        for image in range(60):
            pixels = rng.integers(0, 99, (16, 16, 3)) + 150 * number
            path = folder / os.fsdecode(b"\xff\xfe%02d.png" % image)
            Image.fromarray(pixels.astype(np.uint8)).save(os.fsencode(path))
    return root


def test_two_processes_are_killed_and_resume(images, tmp_path):
    words = [*TRAIN, "--data", str(images), "--devices", "2", "--set", "data.in_memory=never"]
    whole, out = tmp_path / "whole", tmp_path / "run"
    code, _, err = finish(*words, "--out", str(whole))
    assert code == 0, err
    fault = {"fault": "kill rank 1 at step 8 once", "MARK": str(tmp_path)}
    code, _, err = finish(*words, "--max-restarts", "1", "--out", str(out), **fault)
    assert code == 0, err
    assert (tmp_path / "met").exists()
    assert difference(whole, out) == ""
    for run in (whole, out):
        assert (run / "report.html").stat().st_size > 0


def test_a_killed_run_is_resumed_by_hand(images, tmp_path):
    words = [*TRAIN, "--data", str(images), "--devices", "2"]
    out = tmp_path / "run"
    fault = {"fault": "kill rank 1 at step 8 once", "MARK": str(tmp_path)}
    code, _, err = finish(*words, "--out", str(out), **fault)
    assert code == 1
    code, _, err = finish("train", "--resume", str(out), "--device", "cpu")  # one process
    assert code == 0, err
    assert "Traceback" not in err
    assert (out / "report.html").stat().st_size > 0
