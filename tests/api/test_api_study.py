"""Studies from Python: in a script without `if __name__`, whose main module runs once."""

import os
import subprocess
import sys

import pytest

import resnets
from resnets.study.grid.cells import read_grid

SCRIPT = """
import sys, resnets
print("main runs")
study = resnets.study.depth(["cifar-plain8", "cifar-resnet8"], seeds=1, budget="20it", jobs=1,
                            out=sys.argv[1], device="cpu", batch_size=128, optim={"lr": 0.05})
print([cell.status for cell in study.cells], study.report)
assert study.lead.split()[0] in study._repr_html_()
"""


@pytest.mark.ci
def test_a_depth_study_in_a_script_without_a_guard(tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "study"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, out], capture_output=True, text=True, timeout=250,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"main runs\n['done', 'done'] {out / 'report.html'}\n"
    assert (out / "report.html").is_file()
    grid = read_grid(out)
    assert grid.settings == ("batch_size=128", "optim.lr=0.05")
    run = resnets.Run(out / "cells" / "cifar-resnet8-seed0")
    assert (run.recipe.batch_size, run.recipe.optim.lr) == (128, 0.05)


def test_the_functions_are_not_hidden_by_the_packages_of_their_names():
    import resnets.study.depth.page

    assert callable(resnets.study.depth)
    assert callable(resnets.study.shortcuts)
