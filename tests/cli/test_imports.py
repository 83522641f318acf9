"""A command imports what it uses and nothing else: most of a short command's time is imports."""

import subprocess
import sys
from pathlib import Path

import pytest

# Runs one command and writes the names of all modules that it has imported.
PROGRAM = """
import sys
from resnets.cli.main import main
code = main(sys.argv[2:])
open(sys.argv[1], "w").write(" ".join(sys.modules))
sys.exit(code)
"""
# Before PROGRAM: an import of torch ends it.
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise SystemExit("torch is imported")
sys.meta_path.insert(0, Blocker())
"""
UNUSED = {  # by predict and train
    "matplotlib", "pandas", "pyarrow", "scipy", "sklearn", "sympy", "torch._dynamo",
    "torchvision", "onnx", "onnxruntime", "openvino", "nncf", "fastapi", "ray", "datasets",
    "resnets.bulk", "resnets.detect", "resnets.diagrams", "resnets.serve", "resnets.study",
}  # fmt: skip
HEAVY = UNUSED | {"torch", "numpy", "PIL"}


def imported(tmp_path: Path, *words: str | Path) -> set[str]:
    """The modules and packages that `resnets WORDS` has imported when it ends."""
    names = tmp_path / "modules.txt"
    command = [sys.executable, "-c", PROGRAM, names, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(names.read_text().split())


@pytest.mark.parametrize("words", [("--help",), ("--version",)])
def test_help_imports_no_library(tmp_path: Path, words: tuple[str, ...]) -> None:
    found = imported(tmp_path, *words)
    assert not found & (HEAVY | {"tyro", "pydantic", "rich"})


def test_the_recipes_are_read_without_torch(tmp_path: Path) -> None:
    found = imported(tmp_path, "train", "--list")
    assert "resnets.recipes.imagenet" in found
    assert not found & HEAVY


def test_train_prints_its_first_line_before_it_imports_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED + PROGRAM, tmp_path / "names", "train", "digits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    first, second = done.stderr.splitlines()
    assert "cifar-resnet20" in first
    assert second == "torch is imported"


@pytest.mark.ci
def test_predict_imports_what_it_uses(
    tmp_path: Path, digits_run: Path, nested_digits: tuple[Path, list[str]]
) -> None:
    folder, names = nested_digits
    found = imported(tmp_path, "predict", digits_run, folder / names[0])
    assert "resnets.evaluate.predict" in found
    unused = UNUSED | {"fsspec", "huggingface_hub", "jinja2", "tensorboard"}
    ours = {"resnets.train.run", "resnets.train", "resnets.report", "resnets.recipes"}
    assert not found & (unused | ours)


@pytest.mark.ci
def test_train_imports_what_it_uses(tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = imported(tmp_path, "train", "digits", "--iterations", "1", "--out", run)
    assert (run / "result.json").is_file()
    assert "matplotlib" in found  # draws the curves
    assert not found & (UNUSED - {"matplotlib"} | {"resnets.export", "torch.distributed.fsdp"})
