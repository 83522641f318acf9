"""Imports point back along the road of the data only, and files stay readable."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from paths import ROOT


def test_import_directions_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# Grown past the bound, to be divided with the folders they are in; no others may join them.
TO_DIVIDE = {}


def test_files_hold_one_idea():
    counts = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in sorted((ROOT / "resnets").rglob("*.py"))
    }
    assert not {path: count for path, count in counts.items() if count > TO_DIVIDE.get(path, 400)}


def test_names_of_test_files_are_unique():
    # Else pytest collects one of them only, where both are run.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}


def test_folders_stay_small():
    counts = Counter(
        str(path.parent.relative_to(ROOT))
        for path in (ROOT / "resnets").rglob("*.py")
        if path.name != "__init__.py"
    )
    assert not {path: count for path, count in counts.items() if count > 13}
