"""Exported segmenters, localizers and detectors: graphs, verification, and artifacts in use."""

import dataclasses
import io
import json
from pathlib import Path

import httpx
import pytest
from detect_nets import C4, FPN, PCR, SEGMENT, small_model
from PIL import Image
from serving import running, save_vision

from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.data.sources.builtin import load_photographs
from resnets.export.vision import export_vision
from resnets.runtime.vision import open_predictor

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


@pytest.mark.slow
@pytest.mark.parametrize("which", ["localize", "fpn", "c4", "masks"])
@pytest.mark.parametrize(("kind", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_boxes_and_masks_are_those_of_the_model(tmp_path, which, kind, suffix):
    if kind == "openvino":
        pytest.importorskip("openvino")
    check(which, kind, suffix, tmp_path)
