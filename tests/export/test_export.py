"""Export: folding, every format, the verification that precedes each file, and artifacts in use."""

import dataclasses
import json
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from machine_paths import paths_of_this_machine
from PIL import Image
from small_models import PREACT, RESIDUAL, VGG, small_net
from torch import nn

import resnets
from resnets.cli.main import main
from resnets.config import DataSpec
from resnets.data import Preprocessor, open_data
from resnets.export.export import gather_evidence, verify
from resnets.export.select_backend import open_backend
from resnets.export.verify import (
    VerificationError,
    compare_errors,
    compare_logits,
    count_errors,
    reference_logits,
)
from resnets.export.write import classifier as write_classifier
from resnets.export.write.classifier import write_artifact
from resnets.runtime.artifact import ArtifactError, ArtifactMetadata
from resnets.runtime.inference_module import InferenceModule, fold_batch_norms
from resnets.runtime.open import open_artifact
from resnets.runtime.torch import TorchBackend
from resnets.weights.load import load_classifier

ONNX = ("onnx", "onnxscript", "onnxruntime")


@pytest.fixture(scope="module")
def torch_artifact(digits_run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("artifact") / "digits.pt2"
    assert main(["export", str(digits_run), "--to", "torch", "--out", str(out)]) == 0
    return out


def call(capsys, *words) -> tuple[int, str, str]:
    code = main([*map(str, words)])
    return code, *capsys.readouterr()


def surest_digit(run: Path) -> np.ndarray:
    """The test image (H, W) whose class the model is surest of: no kernel's rounding changes it."""
    images = open_data(DataSpec(source="digits")).test().images[..., 0].numpy()
    model = resnets.load(run)
    with torch.inference_mode():
        shares = model(model.preprocess(list(images))).softmax(1)
    return images[int(shares.amax(1).argmax())]


def noise(model, count: int = 3) -> np.ndarray:
    spec = model.preprocess.spec
    shape = (count, spec.size, spec.size, spec.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(each, nn.BatchNorm2d) for each in model.modules())


@pytest.mark.parametrize(
    ("spec", "left", "options"),
    [
        (RESIDUAL, 0, {}),
        (PREACT, 2, {}),  # one after each addition; the first block of the model has none
        (VGG, 0, {"channels": 1}),
        (RESIDUAL, 0, {"mean_image": True}),
        (dataclasses.replace(RESIDUAL, blur_pool=True, widths=(16, 32)), 0, {}),
    ],
)
def test_a_folded_model_gives_the_same_logits(spec, left, options):
    model = small_net(spec, **options)
    images = noise(model)
    assert count_norms(fold_batch_norms(model)) == left < count_norms(model)
    with torch.inference_mode():
        found = InferenceModule(model)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, reference_logits(model)(images), atol=2e-5)


def test_channels_of_bgr_models_are_turned_in_the_graph():
    model = small_net(RESIDUAL)
    turned = dataclasses.replace(model.preprocess.spec, channel_order="bgr", mean=(0.4, 0.45, 0.5))
    model.preprocess = Preprocessor(turned)
    images = noise(model)
    with torch.inference_mode():
        found = InferenceModule(model)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, reference_logits(model)(images), atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "flag", "suffix", "packages"),
    [
        ("torch", "--bf16", ".pt2", ()),
        ("onnx", None, ".onnx", ONNX),
        pytest.param("onnx", "--int8", ".onnx", ONNX, marks=pytest.mark.ci),
        pytest.param("openvino", "--int8", ".xml", ("openvino", "nncf"), marks=pytest.mark.ci),
        pytest.param("openvino", None, ".xml", ("openvino",), marks=pytest.mark.slow),
        pytest.param("openvino", "--bf16", ".xml", ("openvino",), marks=pytest.mark.slow),
    ],
)
def test_export_and_use(capsys, digits_run, tmp_path, kind, flag, suffix, packages):
    for package in packages:
        pytest.importorskip(package)
    out = tmp_path / f"digits{suffix}"
    flags = [flag] if flag else []
    words = ("export", digits_run, "--to", kind, *flags, "--calibrate", "digits", "--out", out)
    code, output, err = call(capsys, *words, "--max-drop", "2")
    assert code == 0, err
    assert "top-1 error" in output
    manifest = json.loads((tmp_path / f"digits{suffix}.json").read_text())
    assert [each["batch"] for each in manifest["parity"]["batches"]] == [1, 2, 7]
    assert all(
        each["relative"] < manifest["parity"]["limit"] for each in manifest["parity"]["batches"]
    )
    whole = manifest["parity"]["full_images"]
    assert (whole is None) == (kind == "torch")
    assert manifest["input"]["shape"] == (
        ["batch", 16, 16, 1] if whole is None else ["batch", "height", "width", 1]
    )
    errors = manifest["errors"]
    assert errors["top1_error_rise"] == errors["top1_error_after"] - errors["top1_error_before"]
    assert errors["top1_error_before"] < 20  # it has learnt to read
    assert len(manifest["source"]["sha256"]) == 64
    precision = manifest["precision"]
    assert not paths_of_this_machine(out)

    code, output, _ = call(capsys, "evaluate", out, "--split", "val", "--json")
    found = json.loads(output)
    assert code == 0
    assert found["top1_error"] == pytest.approx(errors["top1_error_after"])
    named = f"{kind} {precision}, digits{suffix} (of last.safetensors (step 80))"
    assert named in found["protocol"]

    image = tmp_path / "digit.png"
    Image.fromarray(surest_digit(digits_run)).save(image)
    answers = []
    for weights in (out, digits_run):
        code, output, err = call(capsys, "predict", weights, image, "--csv", "--top-k", "1")
        assert code == 0
        assert err.startswith(f"predicting with {kind if weights == out else 'torch'} ")
        answers.append(output.splitlines()[1].split(","))
    assert answers[0][1] == answers[1][1]
    assert float(answers[0][2]) == pytest.approx(float(answers[1][2]), abs=0.1)


def test_a_broken_graph_is_rejected_and_not_written(capsys, digits_run, tmp_path, monkeypatch):
    class WrongMean(InferenceModule):
        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            self.mean += 10

    monkeypatch.setattr(write_classifier, "InferenceModule", WrongMean)
    out = tmp_path / "made" / "net.pt2"
    code, output, err = call(capsys, "export", digits_run, "--to", "torch", "--out", out)
    assert (code, output) == (3, "")
    assert "differs from last.safetensors (step 80): at batch size 1" in err
    assert "nothing was written" in err
    assert not out.parent.exists()  # nor is the folder that was made for it left


@pytest.mark.parametrize("name", ["stem.conv.weight", "head.weight", "stage2.0.norm2.weight"])
def test_one_changed_weight_is_noticed(digits_run, name):
    model, changed = resnets.load(digits_run), resnets.load(digits_run)
    weight = changed.get_parameter(name).data.flatten()
    weight[0] = -weight[0] - 1
    engine, images = (
        TorchBackend(changed, "cpu", "float32"),
        gather_evidence(model, None, "float32").images,
    )
    with pytest.raises(VerificationError, match="difference of the logits is .*, allowed 0.001"):
        compare_logits(model, engine, images, 1e-3)


def test_more_errors_than_allowed_are_rejected_with_the_numbers(digits_run):
    model, worse = resnets.load(digits_run), resnets.load(digits_run)
    worse.head.bias.data[3] += 50  # everything is a three
    evidence = gather_evidence(model, "digits", "float32")
    own, after = (
        count_errors(TorchBackend(each, "cpu", "float32"), evidence.split, evidence.truth)
        for each in (model, worse)
    )
    assert evidence.baseline().top1_error == own.top1_error
    with pytest.raises(
        VerificationError, match=r"error rises by \d+\.\d+ points, from .* allowed are 0.5"
    ):
        compare_errors("torch float32", own, after, 0.5)
    found = compare_errors("torch float32", own, own, 0.0)
    assert found["top1_error_rise"] == 0.0
    assert found["images"] == len(evidence.split)


def test_an_artifact_is_verified_against_its_own_model_only(digits_run, tmp_path):
    model, other = resnets.load(digits_run), resnets.load(digits_run)
    other.preprocess = Preprocessor(dataclasses.replace(model.preprocess.spec, mean=(0.2,)))
    path = tmp_path / "other.pt2"
    write_artifact(other, ArtifactMetadata.from_model(other, "torch", "float32"), path)
    assert verify(other, path, gather_evidence(model, None, "float32"), 0.5)["parity"]["batches"]
    with pytest.raises(VerificationError):
        verify(model, path, gather_evidence(model, None, "float32"), 0.5)


def test_a_file_that_is_no_longer_what_was_verified_is_not_opened(capsys, torch_artifact, tmp_path):
    for file in (torch_artifact, torch_artifact.with_name("digits.pt2.json")):
        shutil.copy(file, tmp_path)
    moved = tmp_path / "digits.pt2"
    assert open_backend(moved).logits(noise(open_backend(moved))).shape == (3, 10)
    moved.write_bytes(moved.read_bytes() + b"\0")
    code, _, err = call(capsys, "predict", moved, tmp_path / "none.png")
    assert code == 1
    assert "was modified after verification" in err


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_full_disk_is_reported_in_one_line_that_names_the_file(
    digits_run, tmp_path, capsys, suffix
):
    kind = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}[suffix]
    for package in ONNX if kind == "onnx" else (kind,):
        pytest.importorskip(package)
    out = tmp_path / f"net{suffix}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        code, _, err = call(capsys, "export", digits_run, "--to", kind, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert err.splitlines()[-1].startswith(f"resnets export: {out}: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_files_that_are_not_artifacts_are_named(tmp_path, suffix):
    pytest.importorskip({".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch"}[suffix])
    path = tmp_path / f"net{suffix}"
    with pytest.raises(ArtifactError, match="no such file"):
        open_backend(path)
    path.write_bytes(pickle.dumps("not a model"))
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ArtifactError, match=f"net{suffix}: "):
        open_backend(path)


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (("--int8",), "--calibrate DATA"),
        (("--int8", "--bf16"), "--int8, --bf16"),
        (("--to", "torch", "--int8", "--calibrate", "digits"), "use openvino or onnx"),
        (("--to", "onnx", "--bf16"), "use --to openvino or torch"),
        (("--to", "torch", "--out", "net.onnx"), "a file for torch ends in .pt2"),
        (("--to", "torch", "--max-drop", "-1", "--calibrate", "x"), "--max-drop -1"),
        (("--max-drop", "1"), "--max-drop: "),
    ],
)
def test_invalid_options(capsys, digits_run, words, output):
    code, out, err = call(capsys, "export", digits_run, *words)
    assert (code, out) == (2, "")
    assert output in err


def test_what_an_artifact_cannot_do_is_reported(capsys, torch_artifact, tmp_path):
    for words, output in (
        (("evaluate", torch_artifact, "--views", "ten-crop"), "--views"),
        (("evaluate", torch_artifact, torch_artifact), "ensemble"),
        (("evaluate", torch_artifact, "--precision", "bfloat16"), "computes in float32"),
        (("predict", torch_artifact, "x.png", "--explain", tmp_path), "use the checkpoint"),
        (("predict", torch_artifact, "x.png", "--device", "cuda"), "computes on the CPU"),
        (("export", torch_artifact), "is already an artifact"),
    ):
        code, _, err = call(capsys, *words)
        assert code == 2, err
        assert output in err


def test_images_of_another_size_are_rejected_by_name(torch_artifact):
    engine = open_backend(torch_artifact)
    with pytest.raises(ValueError, match="float32.*uint8.*16.*16.*1"):
        engine.logits(np.zeros((1, 17, 17, 1), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_program_for_phones_gives_the_models_logits_in_its_own_runtime(
    capsys, digits_run, tmp_path, precision
):
    runtime = pytest.importorskip("executorch.runtime")
    out = tmp_path / "digits.pte"
    flags = ["--int8"] if precision == "int8" else []
    words = ("export", digits_run, "--to", "executorch", *flags, "--calibrate", "digits")
    code, _, err = call(capsys, *words, "--max-drop", "2", "--out", out)
    assert code == 0, err
    manifest = json.loads((tmp_path / "digits.pte.json").read_text())
    method = runtime.Runtime.get().load_program(out).load_method("forward")
    model = load_classifier(str(digits_run))
    images = noise(model, 3)
    found = method.execute([torch.tensor(images.tolist(), dtype=torch.uint8)])[0].numpy()
    expected = reference_logits(model)(images)
    assert np.abs(found - expected).std() <= manifest["parity"]["limit"] * expected.std()

    engine = open_artifact(out)
    batch = noise(model, manifest["settings"]["largest_batch"] + 3)
    apart = np.concatenate([engine.logits(each[None]) for each in batch])
    np.testing.assert_allclose(engine.logits(batch), apart, atol=1e-4)
    out.write_bytes(b"no program")
    out.with_name("digits.pte.json").unlink()
    with pytest.raises(ArtifactError):
        open_artifact(out)
