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
from checkpoint_files import save_checkpoint
from PIL import Image
from torch.nn import functional as F

from resnets.cli.main import main
from resnets.config import DataSpec, Recipe, to_dict
from resnets.data import TrainStream, fit_preprocess, open_data
from resnets.models import build, catalog
from resnets.weights.checkpoint.format import read_checkpoint

COLORS = {"blue": (40, 40, 220), "green": (40, 200, 40), "red": (220, 40, 40)}


def paint(path: Path, color: tuple[int, int, int], seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-30, 31, (12, 12, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """20 training and 8 test images of each of three colors; one red test image is green."""
    root = tmp_path_factory.mktemp("colors")
    for number, (name, color) in enumerate(COLORS.items()):
        for k in range(28):
            part = "train" if k < 20 else "test"
            paint(root / part / name / f"{k:02}.png", color, 100 * number + k)
    paint(root / "test" / "red" / "20.png", COLORS["green"], 0)
    return root


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory) -> Path:
    """A run folder with a net that tells the colors apart."""
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


def complaints(err: str) -> list[str]:
    """What a command says of single files, without the block of what was understood."""
    return [line for line in err.splitlines() if line.startswith("resnets ")]


def test_json_gives_the_figures_of_the_runs_own_test_split(capsys, checkpoint, data):
    code, out, err = call(capsys, "evaluate", checkpoint, "--json")
    result = json.loads(out)
    assert (code, complaints(err)) == (0, [])
    assert result["examples"] == 24
    assert result["top1_error"] == pytest.approx(100 / 24)
    assert "top5_error" not in result  # says nothing of three classes
    assert result["confusion"] == [[8, 0, 0], [0, 8, 0], [0, 1, 7]]
    assert [row["class"] for row in result["per_class"]] == ["blue", "green", "red"]
    assert result["per_class"][1]["precision"] == pytest.approx(8 / 9)
    assert result["per_class"][2]["recall"] == pytest.approx(7 / 8)
    assert result["unreadable"] == []
    (mistake,) = result["confident_errors"]
    assert (mistake["class"], mistake["predicted"]) == ("red", "green")
    assert mistake["path"].endswith("test/red/20.png")
    for part in ("1 view", "12x12 px", "float32", "step 40", data.name, "24 images"):
        assert part in result["protocol"]


def test_table_names_errors_classes_and_confusions(capsys, checkpoint):
    code, out, err = call(capsys, "evaluate", checkpoint)
    assert code == 0
    assert "4.17%" in out
    assert "red predicted as green: 1 image" in out
    assert "evaluating in float32 on " in err  # after the block of what was understood


@pytest.mark.parametrize(("split", "examples"), [("val", 6), ("train", 54)])
def test_other_splits_are_those_of_the_run(capsys, checkpoint, data, split, examples):
    words = ("evaluate", checkpoint, "--split", split, "--json")
    own = json.loads(call(capsys, *words)[1])
    named = json.loads(call(capsys, *words, "--data", data)[1])
    assert own["examples"] == examples
    assert own == named


def test_out_holds_figures_and_image(capsys, checkpoint, tmp_path):
    out = tmp_path / "new" / "figures"
    code, text, err = call(capsys, "evaluate", checkpoint, "--json", "--out", out)
    assert code == 0
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(text)
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert str(out / "confusion.png") in err


def test_other_classes_are_refused_by_name(capsys, checkpoint, data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for part in ("train", "test"):
        (other / part / "red").rename(other / part / "purple")
    code, out, err = call(capsys, "evaluate", checkpoint, "--data", other)
    assert (code, out) == (1, "")
    assert "purple" in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("resnets ")]) == 1
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
        (("--classes", "blue,green"), 2, "names 2 classes, last.safetensors"),
        (("--classes", "blue,green,green"), 2, "twice"),
        (("--classes", "blue,green,yellow"), 1, "unknown to the network; red"),
        (("--data", "no-such-folder"), 1, "no-such-folder"),
        (("--scales", "32,big"), 2, "--scales 32,big"),
        (("--scales", "8"), 2, "--scales 8: cifar-resnet8's crops have 12 px"),
        (("--views", "ten-crop", "--flip"), 2, "--flip"),
        (("--labels", "no.json"), 1, "no.json: cannot be read as labels"),
    ],
)
def test_invalid_arguments_give_one_line(capsys, checkpoint, words, code, said):
    got, out, err = call(capsys, "evaluate", checkpoint, *words)
    assert (got, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("resnets ")]) == 1


def test_out_that_is_a_file_is_refused_before_work(capsys, checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, "evaluate", checkpoint, "--out", tmp_path / "file")
    assert code == 2
    assert "is a file" in err


def test_network_with_infinite_outputs_fails(capsys, checkpoint, tmp_path):
    good = read_checkpoint(checkpoint / "checkpoints" / "last.safetensors")
    tensors = dict(good.tensors)
    tensors["model/head.bias"] = torch.full((3,), float("nan"))
    save_checkpoint(tmp_path / "bad.safetensors", tensors, good.meta)
    code, out, err = call(capsys, "evaluate", tmp_path / "bad.safetensors", "--json")
    assert (code, out) == (1, "")
    assert "not finite" in err


def test_missing_test_split_is_named(capsys, checkpoint, tmp_path):
    good = read_checkpoint(checkpoint / "checkpoints" / "last.safetensors")
    recipe = dict(good.meta["recipe"])
    spec = DataSpec(source="digits", test_fraction=0.0)
    recipe["data"] = to_dict(dataclasses.replace(spec, size=12))
    save_checkpoint(tmp_path / "c.safetensors", good.tensors, good.meta | {"recipe": recipe})
    code, _, err = call(capsys, "evaluate", tmp_path / "c.safetensors")
    assert code == 1
    assert "digits: has no test split" in err


@pytest.fixture(scope="module")
def second(checkpoint: Path, tmp_path_factory) -> Path:
    """The same net as another checkpoint, its outputs in another order and its scores halved."""
    good = read_checkpoint(checkpoint / "checkpoints" / "last.safetensors")
    order = [2, 0, 1]
    tensors = dict(good.tensors)
    for name in ("model/head.weight", "model/head.bias"):
        tensors[name] = tensors[name][order] / 2
    path = tmp_path_factory.mktemp("second") / "other.safetensors"
    classes = [good.meta["classes"][k] for k in order]
    save_checkpoint(path, tensors, good.meta | {"classes": classes})
    return path


def test_ensemble_matches_classes_by_name(capsys, checkpoint, second):
    code, out, _ = call(capsys, "evaluate", checkpoint, second, "--json", "--average", "logits")
    both = json.loads(out)
    assert code == 0
    assert both["confusion"] == [[8, 0, 0], [0, 8, 0], [0, 1, 7]]
    for part in ("2 models, logits averaged", str(checkpoint), str(second), "1 view, 12x12 px"):
        assert part in both["protocol"]
    # The mean logits are three quarters of the net's own, so the loss is another one.
    assert both["loss"] != pytest.approx(
        json.loads(call(capsys, "evaluate", checkpoint, "--json")[1])["loss"]
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--views", "ten-crop", "--scales", "16"), "10 views (corners and center at shorter side"),
        (("--views", "dense", "--flip"), "sides 12, 14, 21, 26, 34 px, each flipped"),
        (("--scales", "12,16", "--flip"), "4 views (center crop at shorter sides 12, 16 px"),
    ],
)
def test_protocols_of_the_paper(capsys, checkpoint, words, said):
    code, out, _ = call(capsys, "evaluate", checkpoint, "--json", *words)
    result = json.loads(out)
    assert code == 0
    assert result["examples"] == 24
    assert result["top1_error"] == pytest.approx(100 / 24)
    assert said in result["protocol"]
    assert "probabilities averaged" in result["protocol"]


def test_label_files_decide_what_is_right(capsys, checkpoint, data, tmp_path):
    labels = tmp_path / "labels.csv"
    rows = [
        f"{name}/{path.name},{name}"
        for name in COLORS
        for path in sorted((data / "test" / name).iterdir())
        if (name, path.name) != ("blue", "20.png")
    ]
    labels.write_text("\n".join([*rows, "red/20.png,green"]) + "\n", encoding="utf-8")
    words = ("evaluate", checkpoint, "--json", "--labels", labels)
    result = json.loads(call(capsys, *words)[1])
    assert (result["examples"], result["top1_error"]) == (23, 0.0)
    assert "labels labels.csv (24 for 23 images" in result["protocol"]
    assert "1 images without a label excluded" in result["protocol"]
    # A flat folder has nothing but such a file.
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in COLORS:
        shutil.copy(data / "test" / name / "25.png", flat / f"{name}.png")
    (tmp_path / "real.json").write_text("[[0], [1, 0], [2]]", encoding="utf-8")
    words = ("evaluate", checkpoint, "--json", "--data", flat, "--labels", tmp_path / "real.json")
    result = json.loads(call(capsys, *words)[1])
    assert (result["examples"], result["top1_error"]) == (3, 0.0)


def test_folders_with_numbers_name_outputs(capsys, checkpoint, data, tmp_path):
    for number, name in enumerate(COLORS):  # as ImageNet-V2 comes
        shutil.copytree(data / "test" / name, tmp_path / "v2" / str(number))
    words = ("evaluate", checkpoint, "--data", tmp_path / "v2", "--json")
    result = json.loads(call(capsys, *words)[1])
    assert result["confusion"] == [[8, 0, 0], [0, 8, 0], [0, 1, 7]]


def test_unreadable_images_are_named_and_excluded(capsys, checkpoint, data, tmp_path):
    folder, labels = tmp_path / "images", []
    folder.mkdir()
    for name in COLORS:
        for path in sorted((data / "test" / name).iterdir()):
            shutil.copy(path, folder / f"{name}-{path.name}")
            labels.append(f"{name}-{path.name},{name}")
    (folder / "red-20.png").write_bytes(b"")
    whole = (folder / "blue-24.png").read_bytes()
    (folder / "blue-24.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "labels.csv").write_text("\n".join(labels), encoding="utf-8")
    words = ("evaluate", checkpoint, "--data", folder, "--labels", tmp_path / "labels.csv")
    code, out, err = call(capsys, *words, "--json", "--out", tmp_path / "out")
    result = json.loads(out)
    assert code == 1
    assert (result["examples"], result["top1_error"]) == (22, 0.0)
    assert len(result["unreadable"]) == 2
    lines = complaints(err)
    assert "blue-24.png" in lines[0]
    assert "red-20.png" in lines[1]
    assert "2 unreadable skipped" in result["protocol"]
    assert (tmp_path / "out" / "errors.png").is_file()


def test_predict_explains(capsys, checkpoint, data, tmp_path):
    files = [data / "test" / name / "25.png" for name in ("red", "blue")]
    words = ("predict", checkpoint, *files, tmp_path / "missing.png")
    code, out, err = call(capsys, *words, "--json", "--explain", tmp_path / "maps")
    assert code == 1
    assert len(json.loads(out)) == 3
    assert "wrote 2 maps" in err
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "25.png.2.cam.png", "25.png.cam.png",
    ]  # fmt: skip
    with Image.open(tmp_path / "maps" / "25.png.cam.png") as image:
        image.load()
        assert image.width > 600


def test_features_of_a_folder_and_the_nearest(capsys, checkpoint, data, tmp_path):
    out_file = tmp_path / "features.parquet"
    image = data / "test" / "green" / "23.png"
    words = ("features", checkpoint, data, "--out", out_file, "--nearest", image, "--json")
    code, out, err = call(capsys, *words, "--top-k", "6")
    nearest = json.loads(out)
    assert code == 0
    assert "wrote 84 embeddings" in err  # all of it, though the net was trained on it
    assert nearest[0]["path"] == str(image)
    assert nearest[0]["similarity"] == pytest.approx(1)
    assert len(nearest) == 6
    named = [row["label"] for row in nearest if not row["path"].endswith("red/20.png")]
    assert set(named) == {"green"}
    import pyarrow.parquet as pq

    table = pq.read_table(out_file).to_pylist()
    assert [Path(row["path"]).parent.name for row in table] == [row["label"] for row in table]
    code, out, _ = call(capsys, "features", checkpoint, data / "test" / "red", "--nearest", image)
    assert code == 0
    assert out.count(".png") == 5  # a folder without classes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--out FILE.parquet, --nearest IMAGE"),
        (("--out", "x.csv"), ".parquet"),
        (("--nearest", "x.png", "--top-k", "0"), "--top-k 0"),
    ],
)
def test_invalid_arguments_of_features(capsys, checkpoint, data, words, said):
    code, out, err = call(capsys, "features", checkpoint, data, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("resnets ")]) == 1


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


def test_predict_agrees_with_evaluate_on_every_test_image(capsys, checkpoint, data):
    code, out, _ = call(capsys, "predict", checkpoint, data / "test", "--csv", "--top-k", "1")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert list(rows[0]) == ["path", "class1", "probability1"]
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    wrong = [row for row in rows if Path(row["path"]).parent.name != row["class1"]]
    assert len(rows) == 24
    assert [Path(row["path"]).name for row in wrong] == ["20.png"]


def test_predict_continues_after_unreadable_images_and_exits_1(capsys, checkpoint, data, tmp_path):
    good = data / "test" / "red" / "25.png"
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "cut.png").write_bytes(good.read_bytes()[:150])
    shutil.copy(good, folder / "whole.png")
    (folder / "notes.txt").write_text("passed over inside a folder")
    named = tmp_path / "notes.txt"
    named.write_text("no image")
    words = ("predict", checkpoint, folder, named, tmp_path / "missing.png")
    code, out, err = call(capsys, *words, "--json")
    result = json.loads(out)
    assert code == 1
    assert [Path(entry["path"]).name for entry in result] == [
        "cut.png", "whole.png", "notes.txt", "missing.png",
    ]  # fmt: skip
    assert [len(entry["predictions"]) for entry in result] == [0, 3, 0, 0]
    lines = complaints(err)
    assert len(lines) == 3
    for line, name in zip(lines, ("cut.png", "notes.txt", "missing.png"), strict=True):
        assert name in line

    code, out, err = call(capsys, *words, "--csv")
    assert code == 1
    assert [row["class1"] for row in csv.DictReader(io.StringIO(out))] == ["", "red", "", ""]


def test_predict_prints_a_table(capsys, checkpoint, data):
    code, out, err = call(capsys, "predict", checkpoint, data / "test" / "red" / "25.png")
    assert code == 0
    assert "red" in out
    assert "%" in out
    assert err.startswith("predicting with torch float32, ")


def test_progress_with_its_rate_stays_on_stderr(capsys, checkpoint, data, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    code, out, err = call(capsys, "predict", checkpoint, data / "test", "--csv")
    assert code == 0
    assert len(list(csv.DictReader(io.StringIO(out)))) == 24
    assert "images/s" in err
    assert "images/s" not in out
    code, out, err = call(capsys, "evaluate", checkpoint, "--json")
    assert json.loads(out)["examples"] == 24
    assert "24/24" in err


def test_paths_and_class_names_are_no_markup(capsys, checkpoint, data, tmp_path):
    strange = tmp_path / "[red]x.png"
    shutil.copy(data / "test" / "red" / "25.png", strange)
    assert "[red]x.png" in call(capsys, "predict", checkpoint, strange)[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--json", "--csv"), 2, "--json and --csv"),
        (("--top-k", "0"), 2, "--top-k 0"),
    ],
)
def test_invalid_arguments_of_predict(capsys, checkpoint, data, words, code, said):
    got, out, err = call(capsys, "predict", checkpoint, data, *words)
    assert (got, out) == (code, "")
    assert said in err


def test_predict_in_a_folder_without_images_or_with_a_missing_run(capsys, checkpoint, tmp_path):
    code, _, err = call(capsys, "predict", checkpoint, tmp_path)
    assert code == 1
    assert "no images in this folder" in err
    (tmp_path / "a.png").write_bytes(b"")
    code, _, err = call(capsys, "predict", tmp_path / "no-run", tmp_path / "a.png")
    assert code == 1
    assert "no-run" in err
