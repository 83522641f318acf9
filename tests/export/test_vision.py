"""Exported segmenters, localizers and detectors: graphs, verification, and artifacts in use."""

import dataclasses
import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from detect_models import C4, FPN, PCR, SEGMENT, small_model
from detect_sets import annotation
from detect_sets import save as save_annotations
from PIL import Image
from serving import running, save_vision

from resnets.cli.main import main
from resnets.config import ConfigError, Preprocess, Recipe
from resnets.data.sources.builtin import load_photographs
from resnets.detect.models.predictor import Predictor
from resnets.export import vision
from resnets.export.vision import export_vision
from resnets.runtime.artifact import ArtifactMetadata
from resnets.runtime.vision import ArtifactModel, open_predictor
from resnets.utils.machine.environment import cpu_flags

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
SMALL = {"train_sizes": (96,), "max_size": 160}
SPECS = {
    "segment": (SEGMENT, "segment"),
    "localize": (dataclasses.replace(PCR, train_crop=80), "localize"),
    "fpn": (FPN, "detect"),
    "c4": (C4, "detect"),
    "masks": (FPN, "instances"),
}


def save(path: Path, which: str) -> str:
    spec, task = SPECS[which]
    return save_vision(path, small_model(dataclasses.replace(spec, **SMALL), task), task)


def jpeg(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(load_photographs()[0]).resize((width, height)).save(out, "PNG")
    return out.getvalue()


def check(which: str, kind: str, suffix: str, folder: Path) -> Path:
    """Export a model and compare its outputs at sizes that the example did not have."""
    weights = save(folder / f"{which}.safetensors", which)
    out = folder / f"{which}{suffix}"
    assert main(["export", weights, "--to", kind, "--out", str(out)]) == 0
    manifest = json.loads(out.with_name(f"{out.name}.json").read_text())
    assert manifest["task"] == SPECS[which][1]
    assert manifest["parity"]["agreement"] >= manifest["parity"]["limit"]
    expected, actual = (open_predictor([str(each)], "cpu", "float32") for each in (weights, out))
    for size in ((300, 200), (120, 333), (40, 40)):
        data = jpeg(*size)
        models = expected, actual
        one, other = (each.infer([each.prepare(data, "image")])[0] for each in models)
        assert one.size == other.size == size[::-1]
        assert one.agreement(other) >= 0.98
    return out


@pytest.mark.ci
def test_a_segmenter_in_each_runtime_predicted_and_served(tmp_path, capsys):
    out = check("segment", "onnx", ".onnx", tmp_path)
    image = tmp_path / "image.png"
    image.write_bytes(jpeg(120, 80))
    capsys.readouterr()
    assert main(["predict", str(out), str(image), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert sum(found["pixels"].values()) == 120 * 80
    with running(str(out), backend="auto") as served:
        answer = httpx.post(f"{served.url}/predict", content=image.read_bytes()).json()
    assert sum(each["share"] for each in answer["predictions"][0]["areas"]) == pytest.approx(
        1, abs=1e-4
    )


def test_what_an_artifact_does_not_do_is_refused(tmp_path):
    model = small_model(FPN)
    model.recipe = None
    for spec in ({"refine": True}, {"test_sizes": (64, 96)}, {"context": True}):
        model.spec = dataclasses.replace(FPN, **spec)
        with pytest.raises(ConfigError, match=next(iter(spec))):
            export_vision(model, "onnx", "float32", tmp_path / "net.onnx")
    model.spec = FPN
    with pytest.raises(ConfigError, match="--to torch"):
        export_vision(model, "torch", "float32", tmp_path / "net.pt2")
    with pytest.raises(ConfigError, match="--calibrate"):
        export_vision(model, "onnx", "int8", tmp_path / "net.onnx")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_outputs_of_a_graph_are_read_in_float32(precision):
    spec, task = SPECS["segment"]
    recipe = Recipe(task=task, detect=dataclasses.replace(spec, **SMALL))
    classes, form = ("disc", "box", "star"), Preprocess(size=64, resize=64)
    metadata = ArtifactMetadata("onnx", precision, "net", classes, form, "run", recipe)
    found = []

    def run(images):
        found.append((torch.ones(4, 4) @ torch.ones(4, 4)).dtype)
        return {"probabilities": np.zeros((3, *images.shape[1:3]), np.float32)}

    artifact = ArtifactModel(run, {}, metadata, Path("net.onnx"))
    device = torch.device("cpu")
    predictor = Predictor.of([artifact], artifact.preprocess, device, precision)
    predictor.infer([predictor.prepare(jpeg(120, 80), "image")])
    assert found == [torch.float32]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["localize", "fpn", "c4", "masks"])
@pytest.mark.parametrize(("kind", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_boxes_and_masks_are_those_of_the_model(tmp_path, which, kind, suffix):
    if kind == "openvino":
        pytest.importorskip("openvino")
    check(which, kind, suffix, tmp_path)


CATEGORIES = [{"id": 3, "name": "disc"}, {"id": 7, "name": "box"}, {"id": 9, "name": "star"}]


def write_own_detections(folder: Path, weights: str) -> Path:
    """A COCO set whose annotations are what the model itself finds, so its AP is high."""
    predictor = open_predictor([weights], "cpu", "float32")
    for title in ("train", "val"):
        (folder / title).mkdir(parents=True)
        document: dict = {"images": [], "annotations": [], "categories": CATEGORIES}
        for number, (width, height) in enumerate([(120, 80), (90, 110), (130, 100)], 1):
            noise = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
            image = Image.fromarray(noise).resize((width, height))
            name = f"{title}{number}.png"
            image.save(folder / title / name)
            entry = {"id": number, "file_name": name, "width": width, "height": height}
            document["images"].append(entry)
            data = (folder / title / name).read_bytes()
            objects = predictor.infer([predictor.prepare(data, name)])[0].objects
            best = np.argsort(-objects["scores"])[:4]
            for label, box in zip(objects["labels"][best], objects["boxes"][best], strict=True):
                category = CATEGORIES[int(label)]["id"]
                document["annotations"].append(annotation(document, number, category, box.tolist()))
        (folder / "annotations").mkdir(exist_ok=True)
        save_annotations(folder, title, document)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "flag", "suffix"),
    [("onnx", "--int8", ".onnx"), ("openvino", "--bf16", ".xml"), ("openvino", "--int8", ".xml")],
)
def test_lower_precisions_are_refused_where_ap_falls(
    tmp_path, monkeypatch, capsys, kind, flag, suffix
):
    if kind == "openvino":
        pytest.importorskip("openvino")
    if flag == "--bf16" and {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu_flags().split()):
        pytest.skip("OpenVINO computes in bfloat16 only on processors that have it")
    monkeypatch.setitem(vision.LIMITS, "int8", 0.0)  # the metrics decide, not the outputs
    monkeypatch.setitem(vision.LIMITS, "bfloat16", 0.0)
    weights = save(tmp_path / "net.safetensors", "fpn")
    data = write_own_detections(tmp_path / "set", weights)
    out = tmp_path / f"net{suffix}"
    words = ["export", weights, "--to", kind, flag, "--calibrate", str(data), "--out", str(out)]
    assert main([*words, "--max-drop", "100"]) == 0
    metrics = json.loads(out.with_name(f"{out.name}.json").read_text())["metrics"]
    assert metrics["before"]["AP"] > 50
    assert metrics["error_rise"] == pytest.approx(
        metrics["before"]["AP"] - metrics["after"]["AP"], abs=1e-6
    )
    assert metrics["error_rise"] > 0  # weights are random, so that scores are near each other
    out.unlink()
    capsys.readouterr()
    assert main([*words, "--max-drop", "0"]) == 3
    assert "AP goes from" in capsys.readouterr().err
    assert not out.exists()
