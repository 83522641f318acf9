"""Contenders of `inference.py` on images in memory: a function that computes one batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = (
    "eager", "timm", "channels_last", "bf16", "compiled", "onnxruntime float32", "onnxruntime int8",
    "openvino float32", "openvino bfloat16", "openvino int8", "openvino bfloat16, parts",
    "openvino int8, parts",
)  # fmt: skip
PACKAGE = (
    "resnets: torch", "resnets: torch bfloat16", "resnets: onnx float32", "resnets: onnx int8",
    "resnets: openvino float32", "resnets: openvino bfloat16", "resnets: openvino int8",
)  # fmt: skip
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
CALIBRATION = 16  # images
PART = 4  # images of a request

Step = Callable[[], Any]


def torch_contender(name: str, model_name: str, size: int, batch: int) -> Step:
    import torch
    import torchvision

    if name == "timm":
        import timm

        model = timm.create_model(model_name).eval()
    else:
        model = torchvision.models.get_model(model_name).eval()
    images = torch.randn(batch, 3, size, size)
    if name not in ("eager", "timm"):
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    if name == "compiled":
        import torch._inductor.config as inductor

        inductor.freezing = True
        model = torch.compile(model.to(torch.bfloat16))
        images = images.to(torch.bfloat16)

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
            model(images)

    return step


def exported_model(model_name: str, size: int, folder: Path) -> Path:
    """Export torchvision's model as ONNX on the first call; returns its path."""
    import torch
    import torchvision

    path = folder / "torchvision.onnx"
    if not path.exists():
        example = torch.randn(2, 3, size, size)
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        model = torchvision.models.get_model(model_name).eval()
        torch.onnx.export(
            model, (example,), path, input_names=["x"], dynamic_shapes=shapes, external_data=False,
            verbose=False,
        )  # fmt: skip
    return path


def onnx_contender(precision: str, model_name: str, size: int, batch: int, folder: Path) -> Step:
    import onnxruntime as ort
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    path = exported_model(model_name, size, folder)
    if precision == "int8":
        rng = np.random.default_rng(0)

        class Reader:
            remaining = CALIBRATION

            def get_next(self) -> dict[str, np.ndarray] | None:
                self.remaining -= 1
                shape = (1, 3, size, size)
                return (
                    {"x": rng.normal(size=shape).astype(np.float32)}
                    if self.remaining >= 0
                    else None
                )

        quantized = folder / "torchvision-int8.onnx"
        if not quantized.exists():
            quantize_static(
                path, quantized, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        path = quantized
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    images = {"x": np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)}
    return lambda: session.run(None, images)


def openvino_model(precision: str, model_name: str, size: int, folder: Path) -> Any:
    """Return torchvision's model as an openvino.Model; int8 by NNCF."""
    import openvino as ov
    import torch
    import torchvision

    quantized = folder / "torchvision-int8.xml"
    if precision == "int8" and quantized.exists():
        return ov.Core().read_model(quantized)
    torch_model = torchvision.models.get_model(model_name).eval()
    model = ov.convert_model(torch_model, example_input=torch.randn(1, 3, size, size))
    if precision == "int8":
        import nncf

        rng = np.random.default_rng(0)
        images = [rng.normal(size=(1, 3, size, size)) for _ in range(CALIBRATION)]
        dataset = nncf.Dataset([each.astype(np.float32) for each in images])
        model = nncf.quantize(model, dataset, subset_size=CALIBRATION)
        ov.save_model(model, quantized)
    return model


def openvino_contender(
    precision: str, model_name: str, size: int, batch: int, folder: Path
) -> Step:
    import openvino as ov

    precision, _, parts = precision.partition(", ")
    if parts and batch < 2 * PART:
        raise ValueError(f"a batch of {batch} is too small for parts")
    model = openvino_model(precision, model_name, size, folder)
    images = np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)
    model.reshape([PART if parts else batch, 3, size, size])
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": threads(),
        "NUM_STREAMS": threads() if parts else 1,
    }
    compiled = ov.compile_model(model, "CPU", hints)
    if not parts:
        request = compiled.create_infer_request()
        return lambda: request.infer({0: images})
    queue = ov.AsyncInferQueue(compiled)

    def step() -> None:
        for start in range(0, batch, PART):
            queue.start_async({0: images[start : start + PART]})
        queue.wait_all()

    return step


def package_contender(name: str, model_name: str, size: int, batch: int, folder: Path) -> Step:
    from resnets.runtime.torch import TorchEngine

    kind, _, precision = name.removeprefix("resnets: ").partition(" ")
    if precision:
        engine: Any = open_own_artifact(kind, precision, model_name, size, folder)
    else:
        engine = TorchEngine(package_model(model_name, size), "cpu")
    images = random_pixels(batch, size)
    return lambda: engine.logits(images)


def random_pixels(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def package_model(model_name: str, size: int) -> Any:
    import resnets
    from resnets.config import Preprocess
    from resnets.data import Preprocessor

    model = resnets.create_model(model_name).eval()
    model.preprocess = Preprocessor(Preprocess(size=size, resize=size * 256 // 224))
    model.classes = tuple(map(str, range(model.spec.num_classes)))
    return model


def open_own_artifact(kind: Any, precision: Any, model_name: str, size: int, folder: Path) -> Any:
    """Open an artifact of `resnets export`, which is written on the first call."""
    from resnets.export.write import write_artifact
    from resnets.runtime.artifact import ArtifactMetadata
    from resnets.runtime.open import open_artifact

    path = folder / f"resnets-{precision}{SUFFIXES[kind]}"
    if not path.exists():
        model = package_model(model_name, size)
        write_artifact(
            model,
            ArtifactMetadata.from_model(model, kind, precision),
            path,
            random_pixels(CALIBRATION, size),
        )
    return open_artifact(path)


def threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def make_contender(name: str, model_name: str, size: int, batch: int, folder: Path) -> Step:
    """Return a function that computes one batch."""
    if name.startswith("resnets"):
        return package_contender(name, model_name, size, batch, folder)
    runtime, _, precision = name.partition(" ")
    if runtime == "onnxruntime":
        return onnx_contender(precision, model_name, size, batch, folder)
    if runtime == "openvino":
        return openvino_contender(precision, model_name, size, batch, folder)
    return torch_contender(name, model_name, size, batch)
