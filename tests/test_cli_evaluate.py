"""`resnets evaluate` and `resnets predict` through the real command, on a net trained here."""

import csv
import dataclasses
import io
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from resnets.cli.main import main
from resnets.config import DataSpec, Recipe, to_dict
from resnets.data import TrainStream, fit_preprocess, open_data
from resnets.models import build, catalog
from resnets.weights.checkpoint import save_checkpoint

COLOURS = {"blue": (40, 40, 220), "green": (40, 200, 40), "red": (220, 40, 40)}


def paint(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-30, 31, (12, 12, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """20 training and 8 test pictures of each of three colours; one red test picture is green."""
    root = tmp_path_factory.mktemp("colours")
    for number, (name, colour) in enumerate(COLOURS.items()):
        for k in range(28):
            part = "train" if k < 20 else "test"
            paint(root / part / name / f"{k:02}.png", colour, 100 * number + k)
    paint(root / "test" / "red" / "20.png", COLOURS["green"], 0)
    return root


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory) -> Path:
    """A run folder with a net that tells the colours apart."""
    spec = DataSpec(source=str(data), size=12)
    splits = open_data(spec)
    model = catalog.spec("cifar-resnet8", num_classes=3, input_size=12)
    torch.manual_seed(0)
    net, preprocessor = build(model), fit_preprocess(splits.train, spec, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    stream = TrainStream(splits.train, spec, preprocessor, 18, 0, torch.device("cpu"))
    for batch in islice(stream.batches(), 40):
        F.cross_entropy(net.train()(batch.images), batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    run = tmp_path_factory.mktemp("run")
    tensors = {f"model/{name}": tensor for name, tensor in net.state_dict().items()}
    meta = {
        "step": 40,
        "recipe": to_dict(Recipe(model=model, data=spec)),
        "classes": list(splits.classes),
        "preprocess": to_dict(preprocessor.spec),
    }
    save_checkpoint(run / "checkpoints" / "last.safetensors", tensors, meta)
    return run


def call(capsys, *words) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command on the CPU in float32."""
    code = main([*map(str, words), "--device", "cpu", "--precision", "float32"])
    return code, *capsys.readouterr()


def test_json_gives_the_figures_of_the_runs_own_test_split(capsys, checkpoint, data):
    code, out, err = call(capsys, "evaluate", checkpoint, "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert result["examples"] == 24
    assert result["top1_error"] == pytest.approx(100 / 24)
    assert result["top5_error"] == 0.0
    assert result["confusion"] == [[8, 0, 0], [0, 8, 0], [0, 1, 7]]
    assert [row["class"] for row in result["per_class"]] == ["blue", "green", "red"]
    assert result["per_class"][1]["precision"] == pytest.approx(8 / 9)
    assert result["per_class"][2]["recall"] == pytest.approx(7 / 8)
    for part in ("1 view", "12x12 px", "float32", "step 40", data.name, "24 pictures"):
        assert part in result["protocol"]


def test_table_names_errors_classes_and_confusions(capsys, checkpoint):
    code, out, err = call(capsys, "evaluate", checkpoint)
    assert code == 0
    assert "4.17%" in out
    assert "1 x red taken for green" in out
    assert err.startswith("evaluating in float32 on ")


@pytest.mark.parametrize(("split", "examples"), [("val", 6), ("train", 54)])
def test_other_splits_are_those_of_the_run(capsys, checkpoint, data, split, examples):
    words = ("evaluate", checkpoint, "--split", split, "--json")
    own = json.loads(call(capsys, *words)[1])
    named = json.loads(call(capsys, *words, "--data", data)[1])
    assert own["examples"] == examples
    assert own == named


def test_out_holds_figures_and_picture(capsys, checkpoint, tmp_path):
    out = tmp_path / "new" / "figures"
    code, text, err = call(capsys, "evaluate", checkpoint, "--json", "--out", out)
    assert code == 0
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(text)
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert str(out / "confusion.png") in err


def test_other_classes_are_refused_by_name(capsys, checkpoint, data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for part in ("train", "test"):
        (other / part / "red").rename(other / part / "purple")
    code, out, err = call(capsys, "evaluate", checkpoint, "--data", other)
    assert (code, out) == (1, "")
    assert "lacks: red" in err
    assert "does not know: purple" in err
    assert err.count("\n") == 1
    # The user may say what the net's outputs are called in this data; order is the net's.
    words = ("evaluate", checkpoint, "--data", other, "--json", "--classes", "blue,green,purple")
    assert json.loads(call(capsys, *words)[1])["top1_error"] == pytest.approx(100 / 24)


def test_classes_in_another_order_are_mapped_by_name(capsys, checkpoint, data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for part in ("train", "test"):  # red now sorts first
        (other / part / "red").rename(other / part / "a-red")
    words = ("evaluate", checkpoint, "--data", other, "--json", "--classes", "blue,green,a-red")
    result = json.loads(call(capsys, *words)[1])
    assert result["confusion"] == [[8, 0, 0], [0, 8, 0], [0, 1, 7]]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--classes", "blue,green"), 2, "names 2 classes, the net has 3"),
        (("--classes", "blue,green,green"), 2, "twice"),
        (("--classes", "blue,green,yellow"), 1, "does not know: red"),
        (("--data", "no-such-folder"), 1, "no-such-folder"),
        (("--batch-size", "0"), 2, "--batch-size 0"),
    ],
)
def test_bad_words_give_one_line(capsys, checkpoint, words, code, said):
    got, out, err = call(capsys, "evaluate", checkpoint, *words)
    assert (got, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_out_that_is_a_file_is_refused_before_work(capsys, checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, "evaluate", checkpoint, "--out", tmp_path / "file")
    assert code == 2
    assert "name a folder" in err


def test_net_with_infinite_outputs_fails(capsys, checkpoint, tmp_path):
    from resnets.weights.checkpoint import read_checkpoint

    good = read_checkpoint(checkpoint / "checkpoints" / "last.safetensors")
    tensors = dict(good.tensors)
    tensors["model/head.bias"] = torch.full((3,), float("nan"))
    save_checkpoint(tmp_path / "bad.safetensors", tensors, good.meta)
    code, out, err = call(capsys, "evaluate", tmp_path / "bad.safetensors", "--json")
    assert (code, out) == (1, "")
    assert "not finite" in err


def test_missing_test_split_is_named(capsys, checkpoint, tmp_path):
    from resnets.weights.checkpoint import read_checkpoint

    good = read_checkpoint(checkpoint / "checkpoints" / "last.safetensors")
    recipe = dict(good.meta["recipe"])
    spec = DataSpec(source="digits", test_fraction=0.0)
    recipe["data"] = to_dict(dataclasses.replace(spec, size=12))
    save_checkpoint(tmp_path / "c.safetensors", good.tensors, good.meta | {"recipe": recipe})
    code, _, err = call(capsys, "evaluate", tmp_path / "c.safetensors")
    assert code == 1
    assert "digits: has no test split" in err


def test_predict_json_names_classes_in_order_of_probability(capsys, checkpoint, data):
    files = [data / "test" / name / "25.png" for name in ("red", "blue")]
    code, out, err = call(capsys, "predict", checkpoint, *files, "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert [entry["path"] for entry in result] == [str(file) for file in files]
    assert [entry["predictions"][0]["class"] for entry in result] == ["red", "blue"]
    shares = [guess["probability"] for guess in result[0]["predictions"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1.0)


def test_predict_agrees_with_evaluate_on_every_test_picture(capsys, checkpoint, data):
    code, out, _ = call(
        capsys, "predict", checkpoint, data / "test", "--csv", "--top-k", "1", "--batch-size", "5"
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert list(rows[0]) == ["path", "class1", "probability1"]
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    wrong = [row for row in rows if Path(row["path"]).parent.name != row["class1"]]
    assert len(rows) == 24
    assert [Path(row["path"]).name for row in wrong] == ["20.png"]


def test_predict_goes_on_past_unreadable_pictures_and_exits_1(capsys, checkpoint, data, tmp_path):
    good = data / "test" / "red" / "25.png"
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "cut.png").write_bytes(good.read_bytes()[:150])
    shutil.copy(good, folder / "whole.png")
    (folder / "notes.txt").write_text("passed over inside a folder")
    named = tmp_path / "notes.txt"
    named.write_text("no picture")
    words = ("predict", checkpoint, folder, named, tmp_path / "missing.png")
    code, out, err = call(capsys, *words, "--json")
    result = json.loads(out)
    assert code == 1
    assert [Path(entry["path"]).name for entry in result] == [
        "cut.png", "whole.png", "notes.txt", "missing.png",
    ]  # fmt: skip
    assert [len(entry["predictions"]) for entry in result] == [0, 3, 0, 0]
    lines = err.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("cut.png", "notes.txt", "missing.png"), strict=True):
        assert name in line

    code, out, err = call(capsys, *words, "--csv")
    assert code == 1
    assert [row["class1"] for row in csv.DictReader(io.StringIO(out))] == ["", "red", "", ""]


def test_predict_table_for_people(capsys, checkpoint, data):
    code, out, err = call(capsys, "predict", checkpoint, data / "test" / "red" / "25.png")
    assert code == 0
    assert "red" in out
    assert "%" in out
    assert err.startswith("predicting in float32 on ")


def test_progress_with_its_rate_stays_on_stderr(capsys, checkpoint, data, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    code, out, err = call(capsys, "predict", checkpoint, data / "test", "--csv")
    assert code == 0
    assert len(list(csv.DictReader(io.StringIO(out)))) == 24
    assert "images/s" in err
    assert "images/s" not in out
    code, out, err = call(capsys, "evaluate", checkpoint, "--json", "--batch-size", "5")
    assert json.loads(out)["examples"] == 24
    assert "images/s" in err


def test_paths_and_class_names_are_no_markup(capsys, checkpoint, data, tmp_path):
    strange = tmp_path / "[red]x.png"
    shutil.copy(data / "test" / "red" / "25.png", strange)
    assert "[red]x.png" in call(capsys, "predict", checkpoint, strange)[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--json", "--csv"), 2, "exclude each other"),
        (("--top-k", "0"), 2, "--top-k 0"),
        (("--batch-size", "-1"), 2, "--batch-size -1"),
    ],
)
def test_bad_words_to_predict(capsys, checkpoint, data, words, code, said):
    got, out, err = call(capsys, "predict", checkpoint, data, *words)
    assert (got, out) == (code, "")
    assert said in err


def test_predict_in_a_folder_without_pictures_or_with_a_missing_run(capsys, checkpoint, tmp_path):
    code, _, err = call(capsys, "predict", checkpoint, tmp_path)
    assert code == 1
    assert "no pictures in this folder" in err
    (tmp_path / "a.png").write_bytes(b"")
    code, _, err = call(capsys, "predict", tmp_path / "no-run", tmp_path / "a.png")
    assert code == 1
    assert "no-run" in err
