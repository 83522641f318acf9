"""The manifest of an artifact alone suffices to repeat its proof."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from resnets.cli.main import main
from resnets.export.export import compare_in_opencv


def run_onnx(artifact, settings, images):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(artifact, **settings)
    return [session.run(None, {"images": image[None]})[0][0] for image in images]


def run_openvino(artifact, settings, images):
    ov = pytest.importorskip("openvino")
    model = ov.Core().compile_model(artifact, "CPU", settings)
    return [model(image[None])[0][0] for image in images]


@pytest.mark.parametrize(
    ("kind", "suffix", "run"), [("onnx", "onnx", run_onnx), ("openvino", "xml", run_openvino)]
)
def test_verification_is_repeated_from_the_manifest(digits_run, tmp_path, kind, suffix, run):
    pytest.importorskip("onnxscript" if kind == "onnx" else "openvino")
    out = tmp_path / f"net.{suffix}"
    assert main(["export", str(digits_run), "--to", kind, "--out", str(out)]) == 0
    manifest = json.loads(out.with_name(f"{out.name}.json").read_text())
    proof = manifest["parity"]["full_images"]
    images = [image[:400, :560] for image in load_sample_images().images]
    channels = manifest["input"]["shape"][3]
    if channels == 1:  # luma, as Pillow computes it
        weights = np.array([19595, 38470, 7471])
        images = [((i @ weights + 0x8000) >> 16).astype(np.uint8)[..., None] for i in images]
    found = np.stack(run(out, manifest["settings"], images))
    expected = np.array(proof["expected"], np.float32)
    relative = np.sqrt(((found - expected) ** 2).mean()) / expected.std()
    assert relative <= proof["limit"]
    assert relative == pytest.approx(proof["relative"], rel=0.05, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_the_form_for_tensorrt_has_no_control_flow(digits_run, tmp_path, precision):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    out = tmp_path / "net.onnx"
    words = ["--to", "tensorrt", "--out", str(out), "--calibrate", "digits"]
    words += ["--max-drop", "2"]  # one of 169 images is 0.6 points, and differs by processor
    flag = "--fp16" if precision == "float16" else "--int8"
    assert main(["export", str(digits_run), *words, flag]) == 0
    graph = onnx.load(out).graph
    dims = [value.type.tensor_type.shape.dim[0] for value in (*graph.input, *graph.output)]
    assert {dim.dim_param for dim in dims} == {"batch"}
    operators = {node.op_type for node in graph.node}
    assert not operators & {"If", "Loop", "Scan"}
    assert [each.dim_value for each in graph.input[0].type.tensor_type.shape.dim[1:3]] != [0, 0]
    opencv = json.loads(out.with_name("net.onnx.json").read_text())["opencv"]
    if importlib.util.find_spec("cv2"):
        assert opencv["relative"] <= opencv["limit"]
    else:
        assert opencv is None
    if precision == "int8":
        layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
        made = {name: node.op_type for node in graph.node for name in node.output}
        for node in layers:
            assert [made[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2


def test_opencv_that_does_not_load_is_excluded(tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    assert compare_in_opencv(Path("net.onnx"), np.zeros((1, 4, 4, 3), np.uint8)) is None
