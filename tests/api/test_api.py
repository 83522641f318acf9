"""The names that `import resnets` exports, and that Python and the command line do the same."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image

import resnets
from resnets.cli.main import main
from resnets.data.sources.objects import open_objects

NAMES = {
    "AugmentSpec", "DataSpec", "DetectSpec", "DistillSpec", "EvalSpec", "FinetuneSpec", "LossSpec",
    "ModelSpec", "OptimSpec", "Preprocess", "Recipe", "ScheduleSpec", "ConfigError", "DataError",
    "CheckpointError", "Diverged", "ImageClassifier", "Interrupted", "OutOfMemory", "ResnetsError",
    "VerificationError", "WeightsError", "WorkerError", "Run", "check_data", "create_model",
    "evaluate", "export",
    "features", "list_models", "load", "open_data", "pack_data", "predict", "predict_data", "push",
    "recipes", "recompute_norm", "study", "replay", "train", "tune", "verify_pack", "__version__",
}  # fmt: skip
SHORT = {
    "model": "cifar-resnet8",
    "iterations": 80,
    "device": "cpu",
    "quiet": True,
    "precision": "float32",
    "eval": {"every": "40it"},
    "log_every": "20it",
    "checkpoint_every": "40it",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return resnets.train("digits", out=tmp_path_factory.mktemp("api") / "run", **SHORT)


def test_exported_names():
    assert set(resnets.__all__) == NAMES
    for name in NAMES:
        assert getattr(resnets, name) is not None
    assert set(dir(resnets)) >= NAMES


def test_functions_are_not_hidden_by_subpackages_of_the_same_names():
    import resnets.evaluate.evaluation
    import resnets.export.export
    import resnets.train.loop

    for name in ("train", "evaluate", "export", "predict", "features", "load"):
        assert callable(getattr(resnets, name))
    assert resnets.Recipe.__module__ == "resnets.config.recipe"


def test_importing_the_package_imports_no_torch():
    code = "import sys, resnets; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_run_from_python_is_that_of_the_command_line(run, tmp_path):
    words = ["train", "digits", "--model", "cifar-resnet8", "--iterations", "80", "--device", "cpu"]
    words += ["--out", str(tmp_path / "run"), "--set", "precision=float32"]
    words += ["--set", "eval.every=40it", "--set", "log_every=20it"]
    assert main([*words, "--set", "checkpoint_every=40it"]) == 0
    theirs = resnets.Run(tmp_path / "run")
    assert theirs.recipe == run.recipe
    for split in ("test", "val"):
        assert theirs.result[split] == run.result[split]
    for name, tensor in theirs.model.state_dict().items():
        assert torch.equal(tensor, run.model.state_dict()[name])


def test_a_run_gives_its_model_results_history_and_report(run):
    assert run.result == json.loads((run.folder / "result.json").read_text())
    assert run.result["test"]["top1_error"] < 40  # chance is 90
    assert [row["step"] for row in run.history if row["kind"] == "val"] == [40, 80]
    assert run.report.read_text().startswith("<!doctype html>")
    assert run.recipe.model.name == "cifar-resnet8"
    assert not run.model.training
    page = run._repr_html_()
    assert "<svg" in page
    assert f"{run.result['test']['top1_error']:.2f}%" in page


def test_fields_are_nested_dotted_or_specs(tmp_path):
    fields = {"batch_size": 32, "optim": {"lr": 0.05}, "data.val_fraction": 0.2}
    augment = resnets.AugmentSpec(crop="pad", pad=2)
    run = resnets.train(
        "digits", out=tmp_path / "run", **SHORT | {"iterations": 1}, **fields,
        schedule=resnets.ScheduleSpec(kind="cosine"), **{"data.augment": augment},
    )  # fmt: skip
    assert (run.recipe.batch_size, run.recipe.optim.lr) == (32, 0.05)
    assert run.recipe.optim.nesterov  # of the recipe
    assert run.recipe.schedule == resnets.ScheduleSpec(kind="cosine")
    assert run.recipe.data.augment == augment
    assert run.recipe.data.val_fraction == 0.2


def test_resuming_continues_or_starts_a_run(run, tmp_path):
    out = tmp_path / "run"
    options = SHORT | {"iterations": 40}
    first = resnets.train("digits", out=out, resume=True, **options)
    assert first.history[-1]["step"] == 40
    with pytest.raises(resnets.ConfigError):
        resnets.train("digits", out=out, **options)
    longer = resnets.train(out=out, resume=True, iterations=60, device="cpu", quiet=True)
    assert max(row["step"] for row in longer.history) == 60
    with pytest.raises(resnets.ConfigError):
        resnets.train(out=out, resume=True, seed=3)


def test_a_folder_without_a_run_is_refused(tmp_path):
    for read in (lambda run: run.result, lambda run: run.history):
        with pytest.raises(resnets.ConfigError, match="not the folder of a run"):
            read(resnets.Run(tmp_path))


def test_predictions_of_files_images_and_arrays(run, tmp_path):
    split = resnets.open_data("digits").test()
    pixels = split.images[:3, :, :, 0].numpy()
    for place, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f"{place}.png")
    found = resnets.predict(run, tmp_path, top_k=3)
    assert [each.path.name for each in found] == ["0.png", "1.png", "2.png"]
    given = [pixels[0], Image.fromarray(pixels[1]), tmp_path / "2.png"]
    for weights in (run, run.model):
        again = resnets.predict(weights, given, top_k=3)
        assert [each.classes for each in again] == [each.classes for each in found]
        for one, other in zip(again, found, strict=True):
            np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert [each.path for each in again] == [Path("image 0"), Path("image 1"), tmp_path / "2.png"]


def test_arrays_and_tensors_are_understood_as_in_a_data_set(run, capsys):
    pixels = resnets.open_data("digits").test().images[:3, :, :, 0]
    expected = resnets.predict(run, list(pixels.numpy()), top_k=3)
    forms = {
        "uint8, (H, W)": pixels,
        "uint8, (C, H, W)": pixels[:, None],
        "uint8, (H, W, C)": pixels[..., None].expand(-1, -1, -1, 3).numpy(),
        "float32 from 0 to 1, (C, H, W)": pixels[:, None] / 255,
        "float64 from 0 to 1, (H, W)": pixels.numpy() / 255,
    }
    labels = torch.arange(3)
    for form, images in forms.items():
        capsys.readouterr()
        assert resnets.predict(run, list(images), top_k=3, quiet=False) == expected
        assert f"3 images in memory: {form}" in capsys.readouterr().err
        if images.ndim == 4:
            assert resnets.predict(run, images, top_k=3) == expected  # a batch
        source = open_objects((images, labels))
        np.testing.assert_array_equal(source.train.images[..., 0], pixels)
        assert source.notes == (f"train images: {form}",)
    rounded = (pixels[:, None] / 255).bfloat16()
    assert resnets.predict(run, rounded) == resnets.predict(run, rounded.float())
    for wrong in (
        torch.zeros(3, 16, 3),  # (C, H, W) or (H, W, C)
        torch.full((16, 16), 7.0),
        torch.full((16, 16), float("nan")),
        torch.zeros(16, 16, dtype=torch.int64),
        torch.zeros(16, 16, 4),
        torch.zeros(16),
    ):
        (found,) = resnets.predict(run, [wrong])
        assert found.error is not None
        with pytest.raises(resnets.DataError):
            open_objects((torch.stack([wrong] * 3), labels))


def test_evaluation_is_that_of_the_run(run):
    for weights in (run, run.model, [run.folder]):
        found = resnets.evaluate(weights, device="cpu", precision="float32", quiet=True)
        error = found.evaluation.top1_error
        assert error == pytest.approx(run.result["test"]["top1_error"])
    with pytest.raises(resnets.ConfigError):
        resnets.evaluate(run, refine=True)


@pytest.mark.parametrize(
    "compute",
    [
        lambda model: resnets.evaluate(model, "digits").metrics["loss"],
        lambda model: resnets.predict(model, [np.full((16, 16), 99, np.uint8)])[0].classes,
        lambda model: resnets.features(model, [np.full((16, 16), 99, np.uint8)])[0].vector.tolist(),
    ],
    ids=["evaluate", "predict", "features"],
)
def test_a_model_in_training_mode_computes_in_eval_mode_and_stays_as_it_was(compute):
    model = resnets.load("resnets:digits/cifar-resnet20")
    model.stage1.train()  # a part of it
    modes = [each.training for each in model.modules()]
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = compute(model)
    assert [each.training for each in model.modules()] == modes
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    strides = {name: each.stride() for name, each in model.state_dict().items()}
    assert strides == {name: each.stride() for name, each in before.items()}
    assert found == compute(resnets.load("resnets:digits/cifar-resnet20"))


def test_models_without_preprocessing_names_or_head_are_refused(run, tmp_path):
    image = np.zeros((8, 8), np.uint8)
    with pytest.raises(resnets.ConfigError, match=r"has no preprocessing; save it with \.save"):
        resnets.predict(resnets.create_model("cifar-resnet8", in_channels=1), image)
    model = resnets.load(run)
    model.reset_classifier(3)
    with pytest.raises(resnets.ConfigError, match="new head.* has 0 class names for 3 classes"):
        resnets.predict(model, image)
    model.classes = ("a", "b", "c")
    assert len(resnets.predict(model, image)[0].classes) == 3
    model.reset_classifier(0)
    with pytest.raises(resnets.ConfigError, match="no linear head"):
        model.save(tmp_path / "saved")


def test_export_writes_a_verified_artifact(run, tmp_path):
    artifact = resnets.export(run, "torch", out=tmp_path / "net.pt2", quiet=True)
    assert artifact.manifest["parity"]["batches"]
    assert artifact.path.is_file()
    (one,) = resnets.predict(artifact, np.zeros((16, 16), np.uint8))
    assert len(one.classes) == 5


def test_training_works_in_a_thread(tmp_path):
    runs = []
    options = SHORT | {"iterations": 2}
    thread = threading.Thread(
        target=lambda: runs.append(resnets.train("digits", out=tmp_path / "run", **options))
    )
    thread.start()
    thread.join()
    assert runs[0].result["test"]["examples"] == 359


def test_a_model_without_names_is_evaluated_with_classes_and_one_without_a_head_refused():
    model = resnets.load("resnets:digits/cifar-resnet20")
    model.classes = ()
    found = resnets.evaluate(model, "digits", classes="numbers", quiet=True)
    assert found.evaluation.top1_error < 10
    model.reset_classifier(0)
    model.classes = tuple("0123456789")
    with pytest.raises(resnets.ConfigError, match="head"):
        resnets.evaluate(model, "digits", quiet=True)
