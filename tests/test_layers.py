"""Imports point back along the road of the data only, and files stay readable."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_import_directions_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_hold_one_idea():
    long = [
        f"{path.relative_to(ROOT)}: {count}"
        for path in sorted((ROOT / "resnets").rglob("*.py"))
        if (count := len(path.read_text().splitlines())) > 350
    ]
    assert not long
