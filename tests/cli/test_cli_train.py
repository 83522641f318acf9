"""`resnets train` from the command line: a folder of images, and one line for each mistake."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from resnets.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes that differ in color, 30 images each, of varied size."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, plane in (("red", 0), ("blue", 2)):
        (root / name).mkdir()
        for index in range(30):
            height, width = rng.integers(24, 60, 2)
            pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
            pixels[:, :, plane] += 120
            Image.fromarray(pixels).save(root / name / f"{index}.jpg")
    return root


SMALL = ["--set", "data.size=32", "--set", "data.resize=36", "--set", "batch_size=16"]


def run(*words):
    return main([*map(str, words), "--device", "cpu"])


def test_a_classifier_is_trained_on_a_folder(folder, tmp_path, capsys):
    out = tmp_path / "run"
    words = ("train", "scratch", "--data", folder, "--model", "cifar-resnet8")
    assert run(*words, "--iterations", 12, "--out", out, *SMALL) == 0
    said = capsys.readouterr()
    assert f"report: {out}/report.html" in said.out
    assert "images/s" in said.out
    assert all(len(line) <= 80 for line in said.out.splitlines() if str(tmp_path) not in line)
    lines = [line for line in said.err.splitlines() if line.startswith("epoch ")]
    epochs = [line.split()[1] for line in lines]
    assert epochs == ["1/4.5", "2/4.5", "3/4.5", "4/4.5", "4.5/4.5"]  # 12 steps of 24 images
    assert all("val error" in line for line in lines)
    result = json.loads((out / "result.json").read_text())
    assert result["test"]["examples"] == 9
    assert result["test"]["top1_error"] <= 20
    image = folder / "red" / "0.jpg"
    assert main(["predict", str(out), str(image), "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["path"] == str(image)
    assert answer["predictions"][0]["class"] == "red"


@pytest.mark.ci
def test_the_papers_imagenet_recipe_runs_on_photographs(shared_data, tmp_path):
    """Scale jitter, PCA color, mean image and plateau rule on Imagenette, a few steps."""
    out = tmp_path / "run"
    words = ("train", "imagenet-paper", "--data", shared_data / "imagenette160.tar")
    small = ["--set", "data.size=64", "--set", "data.resize=72", "--set", "batch_size=8"]
    small += ["--set", "data.augment.scale=[72, 120]", "--set", "eval.every=2it"]
    assert run(*words, "--model", "resnet18", "--iterations", 4, "--out", out, *small) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["test"]["examples"] == 1000  # val/ is the test part, as in ImageNet's layout
    assert result["val"]["examples"] == 58  # about 2% of each class of train/
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["kind"] == "val" for row in rows) == 2


def test_list_shows_docstrings(capsys):
    assert main(["train", "--list"]) == 0
    said = capsys.readouterr().out
    assert "cifar10-paper" in said
    assert "divided by 10 at 32k and 48k" in said


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "one recipe"),
        (("digit",), 2, "unknown recipe 'digit'; did you mean digits?"),
        (("digits", "--model", "resnet19"), 2, "unknown model 'resnet19'; did you mean resnet18?"),
        (("digits", "--set", "optim.rate=1"), 2, "unknown field optim.rate"),
        (("digits", "--set", "lr"), 2, "--set lr: "),
        (("digits", "--epochs", "1", "--iterations", "2"), 2, "--epochs and --iterations"),
        (("digits", "--iterations", "0"), 2, "not a duration"),
        (("missing.toml",), 2, "missing.toml: cannot be read as a recipe"),
        (("scratch", "--data", "nowhere/at/all"), 1, "nowhere/at/all"),
        (("--resume", "nowhere"), 2, "nowhere: is not the folder of a run"),
        (("digits", "--resume", "nowhere"), 2, "one recipe"),
    ],
)
def test_usage_errors_are_one_line_and_write_nothing(
    words, code, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["train", *words, "--out", "run"] if words[:1] != ("--resume",) else ["train", *words])
        == code
    )
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not [line for line in said[:-1] if not line.startswith("training ")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "red").rename(root.parent / "gone"), "class"),
        (lambda root: [path.unlink() for path in (root / "red").iterdir()], "red"),
    ],
)
def test_bad_folders_are_named(folder, tmp_path, capsys, spoil, message):
    root = tmp_path / "copy"
    shutil.copytree(folder, root)
    spoil(root)
    words = ("train", "scratch", "--data", root, "--model", "cifar-resnet8", "--iterations", 8)
    assert run(*words, "--out", tmp_path / "run", *SMALL) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said
    assert root.name in said
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("data", [b"not an image", None])
def test_a_broken_image_is_named_and_the_run_continues(folder, tmp_path, caplog, data):
    root = tmp_path / "copy"
    shutil.copytree(folder, root)
    half = (root / "red" / "1.jpg").read_bytes()[:400]
    (root / "red" / "0.jpg").write_bytes(half if data is None else data)
    words = ("train", "scratch", "--data", root, "--model", "cifar-resnet8", "--iterations", 8)
    assert run(*words, "--out", tmp_path / "run", *SMALL) == 0
    (said,) = {each.message for each in caplog.records if "cannot be read" in each.message}
    assert said.startswith(f"{root / 'red' / '0.jpg'}: cannot be read as an image")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [said] in [result[part]["unreadable"] for part in ("train", "val", "test")]


def test_unknown_command_suggests(capsys):
    assert main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_overview_and_version(capsys):
    assert main(["--help"]) == 0
    assert "resnets train digits" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert main([]) == 2
