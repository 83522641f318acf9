"""The wheel holds every file of the package, and works in an environment of its own."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from paths import ROOT

SOURCES = ("resnets", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make wheel` does, from a copy: building writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "--wheel-dir", "dist", "."], cwd=folder, check=True)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "resnets").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("resnets/")}
    assert packed == sources


def required_distributions() -> list[metadata.Distribution]:
    """What the package needs without extras, itself left out, of what is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(text) for text in project["dependencies"]]
    while waiting:
        needed = waiting.pop()
        extras = needed.extras or {""}
        if needed.name in found:
            continue
        found[needed.name] = metadata.distribution(needed.name)
        for text in found[needed.name].requires or []:
            below = Requirement(text)
            marker = below.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(below)
    return list(found.values())


@pytest.mark.slow
def test_digits_are_trained_without_extras(wheel, tmp_path):
    """In an environment that has the wheel and its required dependencies alone."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python3*")) / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for distribution in required_distributions():
        for name in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(distribution.locate_file(name))
    missing = subprocess.run([python, "-c", "import fastapi"], capture_output=True, check=False)
    assert missing.returncode == 1
    environment = {key: os.environ[key] for key in os.environ if key != "PYTHONPATH"}
    command = [python, "-m", "resnets", "train", "digits", "--iterations", "5", "--out", "run"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "run" / "report.html").is_file()
