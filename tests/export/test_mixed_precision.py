"""Mixed precision: quantization-sensitive layers stay in float if full int8 fails."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint_files import save_checkpoint

import resnets
from resnets.cli.main import main
from resnets.export import export as export_module
from resnets.export.mixed_int8 import MAX_FLOAT_SHARE, Layer, _layer_counts
from resnets.export.select_backend import open_backend
from resnets.runtime.artifact import manifest_path
from resnets.weights.checkpoint.format import read_checkpoint

pytest.importorskip("openvino")
pytest.importorskip("nncf")


def stretched(run: Path, path: Path, times: float) -> Path:
    """The model of `run` with one plane of a block `times` as large and read as much more weakly.

    It computes the same, for relu(times * x) is times * relu(x), but 8 bits for the widest plane
    leave the other planes next to none.
    """
    last = read_checkpoint(run / "checkpoints" / "last.safetensors")
    tensors = {name: tensor.clone() for name, tensor in last.tensors.items()}
    for name in ("weight", "bias"):
        tensors[f"model/stage2.0.norm1.{name}"][0] *= times
    tensors["model/stage2.0.conv2.weight"][:, 0] /= times
    save_checkpoint(path, tensors, last.meta)
    return path


@pytest.mark.ci
def test_the_quantization_sensitive_layer_stays_in_float(capsys, digits_run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "CALIBRATION", 64)  # which takes less time than 300
    weights = stretched(digits_run, tmp_path / "wide.safetensors", 1000.0)
    nets = [resnets.load(each) for each in (digits_run, weights)]
    with torch.inference_mode():
        same = [model(torch.ones(1, 1, 16, 16)) for model in nets]
    torch.testing.assert_close(*same, rtol=1e-3, atol=1e-3)

    out = tmp_path / "wide.xml"
    words = ["export", str(weights), "--to", "openvino", "--int8", "--calibrate", "digits"]
    code = main([*words, "--out", str(out), "--max-drop", "1"])
    output, err = capsys.readouterr()
    assert code == 0, err
    manifest = json.loads(manifest_path(out).read_text())
    mixed = manifest["mixed"]
    assert list(mixed["float"]) == ["stage2.0.conv2"]
    assert "wide.safetensors" in mixed["all_int8"]["failure"]
    assert 0 < mixed["float_multiply_adds"] < MAX_FLOAT_SHARE
    assert manifest["errors"]["top1_error_rise"] <= 1
    assert f"layers in float: stage2.0.conv2 (1 of {mixed['quantized'] + 1} layers, " in output
    assert {each.name for each in tmp_path.iterdir()} == {
        "wide.safetensors", "wide.xml", "wide.bin", "wide.xml.json"
    }  # fmt: skip
    backend = open_backend(out)
    assert backend.metadata.floats == ("stage2.0.conv2",)
    constants = [op for op in backend.model.get_ops() if op.get_type_name() == "Constant"]
    assert any(op.get_element_type().to_string() == "i8" for op in constants)


def test_more_layers_are_tried_until_half_of_the_work_is_float():
    layers = [Layer(f"layer{place}", 1.0 - place / 20, 0.05) for place in range(20)]
    assert _layer_counts(layers) == [1, 2, 3, 4, 6, 9, 10]
    assert _layer_counts([Layer("most of it", 1.0, 0.8), *layers]) == []
    assert _layer_counts([Layer("sum", 1.0, 0.0), Layer("most of it", 0.5, 0.8)]) == [1]
