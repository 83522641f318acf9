"""A transformer of characters: the run, resuming, evaluation, generation, invalid texts."""

import json
import math

import numpy as np
import pytest
import torch

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError, replace_fields
from resnets.data.errors import DataError
from resnets.recipes import recipe
from resnets.sequence.load import load_sequence_model
from resnets.sequence.predict import generate
from resnets.sequence.text import TextWindows, open_text
from resnets.train.run import run_training
from resnets.weights.checkpoint.format import LAST, read_checkpoint
from resnets.weights.errors import CheckpointError

STEPS = 24
SMALL = {
    "transformer.depth": 1,
    "transformer.width": 16,
    "transformer.heads": 2,
    "transformer.context": 16,
    "transformer.dropout": 0.1,
    "log_every": "8it",
    "checkpoint_every": "12it",
    "eval.every": "12it",
    "duration": f"{STEPS}it",
    "data.val_fraction": 0.02,
    "data.test_fraction": 0.02,
}


def small(**fields):
    return replace_fields(recipe("text"), SMALL | fields)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("text") / "run"
    return out, run_training(small(), out, device="cpu", quiet=True)


def test_run_reports_bits_and_the_frequency_baseline(done):
    out, result = done
    test = result["test"]
    assert test["bits_per_character"] == pytest.approx(test["loss"] / math.log(2))
    assert 4 < test["frequency_bits"] < 5  # of English letters
    assert test["bits_per_character"] < math.log2(62)  # of guessing
    assert result["data_summary"]["unit"] == "windows"
    assert result["model"] == "transformer4"
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "bits per character" in report
    assert "images/s" not in report


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    recipe = small(**{"schedule.kind": "constant", "schedule.warmup": 0})
    half = replace_fields(recipe, {"duration": "12it"})
    run_training(half, tmp_path / "a", device="cpu", quiet=True)
    run_training(None, tmp_path / "a", duration=recipe.duration, device="cpu", quiet=True)
    run_training(recipe, tmp_path / "b", device="cpu", quiet=True)
    one, other = (
        read_checkpoint(tmp_path / name / "checkpoints" / LAST).group("model") for name in "ab"
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_evaluate_repeats_the_run_and_measures_other_texts(done, tmp_path):
    out, result = done
    found = resnets.evaluate(out, quiet=True, device="cpu")
    assert found.metrics["bits_per_character"] == pytest.approx(
        result["test"]["bits_per_character"]
    )
    assert found.protocol == result["test"]["protocol"]
    model = resnets.load(out).train()
    assert resnets.evaluate(model, quiet=True, device="cpu") == found
    assert model.training
    with pytest.raises(ConfigError, match="models of text cannot be exported"):
        resnets.export(model)
    other = tmp_path / "other.txt"
    other.write_text("\N{BYTE ORDER MARK}" + "Shall I compare thee to a summer's day?\r\n" * 3)
    assert resnets.evaluate(out, other, quiet=True, device="cpu").examples == 7
    other.write_text("Größe " * 9, encoding="utf-8")
    with pytest.raises(DataError, match="ö"):
        resnets.evaluate(out, other, quiet=True)
    with pytest.raises(ConfigError, match="views"):
        resnets.evaluate(out, views="ten-crop", quiet=True)


def test_predict_continues_a_text(done, capsys):
    out, _ = done
    assert main(["predict", str(out), "Shall I", "--length", "20", "--device", "cpu"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("Shall I")
    assert len(line.rstrip("\n")) <= 27
    assert resnets.predict(out, "Shall I", length=20, device="cpu") == [line.removesuffix("\n")]
    model = load_sequence_model(out).train()
    assert resnets.predict(model, ["thy ", "Shall I"], length=20, device="cpu") == [
        generate(model, "thy ", 20),
        line.removesuffix("\n"),
    ]
    assert model.training
    with pytest.raises(ConfigError, match="images: ndarray is not a string"):
        resnets.predict(model, np.zeros((2, 3)))
    with pytest.raises(ConfigError, match="^classes: not for models of task 'text'"):
        resnets.predict(out, "Shall I", classes="a,b")
    assert generate(model, "thy ", 30) == generate(model, "thy ", 30)
    assert len(generate(model, "a" * 40, 5, temperature=0)) == 45  # longer than the context
    with pytest.raises(DataError):
        generate(model, "Größe", 5)


def test_windows_hold_each_character_and_the_next_one():
    part = TextWindows(torch.arange(23), 5)
    assert len(part) == 4
    inputs, targets = part.get_batch(
        torch.arange(4).numpy(), torch.zeros(4, dtype=torch.int64).numpy()
    )
    assert inputs.flatten().tolist() == list(range(20))
    assert torch.equal(targets, inputs + 1)
    for shift in range(7):
        inputs, targets = part.get_batch(torch.arange(4).numpy(), torch.full((4,), shift).numpy())
        assert torch.equal(targets, inputs + 1)  # a shifted window ends within the text, too


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "does not exist"), (b"\xff\xfe\x00a" * 100, "UTF-8"), (b"short", "window")],
)
def test_bad_texts_are_refused_before_anything_is_written(tmp_path, content, word):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=word):
        run_training(small(**{"data.source": str(path)}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.toml"))


def test_a_text_that_changed_is_not_resumed(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be, that is the question\n" * 40)
    fields = {"data.source": str(path), "duration": "2it"}
    run_training(small(**fields), tmp_path / "run", device="cpu", quiet=True)
    path.write_text("to be or not to be, that is the question\n" * 41)
    with pytest.raises(CheckpointError, match="has changed"):
        run_training(None, tmp_path / "run", duration="4it", device="cpu", quiet=True)


@pytest.mark.parametrize("field", ["model.depths", "data.augment.flip", "detect.head", "weights"])
def test_fields_of_images_are_refused(field, capsys):
    assert main(["train", "text", "--set", f"{field}=none"]) == 2


def test_text_file_is_split_in_three_consecutive_parts(tmp_path):
    path = tmp_path / "text.txt"
    text = "".join(chr(97 + place % 26) for place in range(1000))
    path.write_text(text)
    found = open_text(small(**{"data.source": str(path), "data.val_fraction": 0.1}).data, 16)
    whole = torch.cat([found.splits[role].codes for role in ("train", "val", "test")])
    assert "".join(found.classes[code] for code in whole) == text
    assert json.dumps(found.summary.to_json())
