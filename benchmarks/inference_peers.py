"""What `inference.py` compares: one step of each contender on pictures that are in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PEERS = (
    "eager", "timm", "channels_last", "bf16", "compiled", "onnxruntime float32", "onnxruntime int8",
    "openvino float32", "openvino bfloat16", "openvino int8", "openvino bfloat16, parts",
    "openvino int8, parts",
)  # fmt: skip
OURS = (
    "ours: torch", "ours: torch bfloat16", "ours: onnx float32", "ours: onnx int8",
    "ours: openvino float32", "ours: openvino bfloat16", "ours: openvino int8",
)  # fmt: skip
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
CALIBRATION, PART = 16, 4

Step = Callable[[], Any]


def torch_peer(name: str, net: str, size: int, batch: int) -> Step:
    import torch
    import torchvision

    if name == "timm":
        import timm

        model = timm.create_model(net).eval()
    else:
        model = torchvision.models.get_model(net).eval()
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


def exported_peer(net: str, size: int, folder: Path) -> Path:
    import torch
    import torchvision

    path = folder / "peer.onnx"
    if not path.exists():
        example = torch.randn(2, 3, size, size)
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        model = torchvision.models.get_model(net).eval()
        torch.onnx.export(
            model, (example,), path, input_names=["x"], dynamic_shapes=shapes, external_data=False,
            verbose=False,
        )  # fmt: skip
    return path


def onnx_peer(precision: str, net: str, size: int, batch: int, folder: Path) -> Step:
    import onnxruntime as ort
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    path = exported_peer(net, size, folder)
    if precision == "int8":
        rng = np.random.default_rng(0)

        class Reader:
            left = CALIBRATION

            def get_next(self) -> dict[str, np.ndarray] | None:
                self.left -= 1
                shape = (1, 3, size, size)
                return {"x": rng.normal(size=shape).astype(np.float32)} if self.left >= 0 else None

        made = folder / "peer-int8.onnx"
        if not made.exists():
            quantize_static(
                path, made, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        path = made
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    images = {"x": np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)}
    return lambda: session.run(None, images)


def openvino_model(precision: str, net: str, size: int, folder: Path) -> Any:
    """torchvision's net as an openvino.Model."""
    import openvino as ov
    import torch
    import torchvision

    made = folder / "peer-int8.xml"
    if precision == "int8" and made.exists():
        model = ov.Core().read_model(made)
    else:
        own = torchvision.models.get_model(net).eval()
        model = ov.convert_model(own, example_input=torch.randn(1, 3, size, size))
    if precision == "int8" and not made.exists():
        import nncf

        rng = np.random.default_rng(0)
        pictures = [
            rng.normal(size=(1, 3, size, size)).astype(np.float32) for _ in range(CALIBRATION)
        ]
        model = nncf.quantize(model, nncf.Dataset(pictures), subset_size=CALIBRATION)
        ov.save_model(model, made)
    return model


def openvino_peer(precision: str, net: str, size: int, batch: int, folder: Path) -> Step:
    import openvino as ov

    precision, _, parts = precision.partition(", ")
    if parts and batch < 2 * PART:
        raise ValueError(f"a batch of {batch} has no parts")
    model = openvino_model(precision, net, size, folder)
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


def ours(name: str, net: str, size: int, batch: int, folder: Path) -> Step:
    from resnets.runtime.torch import TorchEngine

    what = name.removeprefix("ours: ")
    if what == "torch":
        engine: Any = TorchEngine(our_net(net, size), "cpu")
    else:
        engine = our_artifact(*what.split(), net, size, folder)
    pictures = noise(batch, size)
    return lambda: engine.logits(pictures)


def noise(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def our_net(net: str, size: int) -> Any:
    import resnets
    from resnets.config import Preprocess
    from resnets.data import Preprocessor

    model = resnets.create_model(net).eval()
    model.preprocess = Preprocessor(Preprocess(size=size, resize=size * 256 // 224))
    model.classes = tuple(map(str, range(model.spec.num_classes)))
    return model


def our_artifact(kind: Any, precision: Any, net: str, size: int, folder: Path) -> Any:
    """The engine of an artifact, written when it is first asked for."""
    from resnets.export.write import write_artifact
    from resnets.runtime.artifact import ArtifactMetadata
    from resnets.runtime.open import open_artifact

    path = folder / f"ours-{precision}{SUFFIXES[kind]}"
    if not path.exists():
        model = our_net(net, size)
        write_artifact(
            model,
            ArtifactMetadata.from_model(model, kind, precision),
            path,
            noise(CALIBRATION, size),
        )
    return open_artifact(path)


def threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def contender(name: str, net: str, size: int, batch: int, folder: Path) -> Step:
    if name.startswith("ours"):
        return ours(name, net, size, batch, folder)
    runtime, _, precision = name.partition(" ")
    if runtime == "onnxruntime":
        return onnx_peer(precision, net, size, batch, folder)
    if runtime == "openvino":
        return openvino_peer(precision, net, size, batch, folder)
    return torch_peer(name, net, size, batch)
