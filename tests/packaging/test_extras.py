"""Whatever needs an extra says so in one line, with the command that installs it."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from detect_sets import bare_split, bare_target, detections

from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.detect.data import masks
from resnets.detect.metrics.coco import coco_figures

RUN = "{run}"
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(64)
HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)
COMMANDS = [
    ("hub", ["pyarrow"], ["features", RUN, "images", "--out", "rows.parquet"]),
    ("hub", ["pyarrow"], ["predict", RUN, "--data", "images", "--out", "rows"]),
    ("hub", ["datasets"], ["evaluate", RUN, "--data", "hub:org/name"]),
    ("hub", ["h5py"], ["predict", "keras.h5", "images", "--model", "resnet50"]),
    ("deploy", ["onnxscript"], ["export", RUN, "--to", "onnx"]),
    ("deploy", ["onnxruntime"], ["export", RUN, "--to", "onnx"]),
    ("deploy", ["openvino"], ["export", RUN, "--to", "openvino"]),
    ("deploy", ["nncf"], ["export", RUN, "--to", "openvino", "--int8", "--calibrate", "digits"]),
    ("executorch", ["executorch"], ["export", RUN, "--to", "executorch"]),
    ("serve", ["fastapi"], ["serve", RUN, "--port", "0"]),
    ("serve", ["prometheus_client"], ["serve", RUN, "--port", "0"]),
    ("ray", ["ray"], ["predict", RUN, "--data", "images", "--out", "rows", "--engine", "ray"]),
    ("heic", ["pillow_heif"], ["predict", RUN, "photo.heic"]),
    ("s3", ["s3fs"], ["evaluate", "s3://bucket/runs/a"]),
    ("gs", ["gcsfs"], ["evaluate", "gs://bucket/runs/a"]),
]


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make imports of these packages fail, also by modules of ours that have them already."""
    for name in list(sys.modules):
        if name.partition(".")[0] in packages or name.startswith("resnets.serve"):
            monkeypatch.delitem(sys.modules, name)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    known = importlib.import_module("fsspec.registry")._registry
    for protocol in ("s3", "gs"):  # fsspec keeps the classes of earlier tests
        monkeypatch.delitem(known, protocol, raising=False)


@pytest.mark.parametrize(("extra", "packages", "words"), COMMANDS)
def test_a_missing_extra_is_one_line(
    extra, packages, words, digits_run, nested_digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("images").symlink_to(nested_digits[0])
    Path("keras.h5").write_bytes(HDF5)
    Path("photo.heic").write_bytes(HEIC)
    hide(monkeypatch, *packages)
    assert main([word.format(run=digits_run) for word in words]) in (1, 2)
    out, err = capsys.readouterr()
    lines = [line for line in (out + err).splitlines() if "pip install" in line]
    assert len(lines) == 1
    assert f"pip install 'resnets[{extra}]'" in lines[0]
    assert "Traceback" not in err


def test_detection_without_its_extra(monkeypatch):
    hide(monkeypatch, "faster_coco_eval", "pycocotools")
    masks._api.cache_clear()
    monkeypatch.setattr(masks, "_api", masks._api.__wrapped__)  # leaves nothing in the cache
    split = bare_split([bare_target([[1, 1, 9, 9]], [0])])
    with pytest.raises(ConfigError, match=r"pip install 'resnets\[detect\]'"):
        masks.encode_masks(np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(ConfigError, match=r"pip install 'resnets\[detect\]'"):
        coco_figures(split, [detections([[1, 1, 9, 9]], [0.5], [0])])
