"""Contenders of `inference.py`: functions that compute one batch of images in memory, or make one
pass from JPEG files to classes.

Part memory: see inference.py. Part end-to-end: each step is a complete pass from a cold pipeline to
the last result; the inputs of `raw ...` are ready. All compute the same model (random weights) with
all cores.

script                     the usual script: ImageFolder, DataLoader with a worker per core, Resize,
                           CenterCrop, ToTensor, Normalize, torchvision's model, float32, `model(x)`
script, bf16               the same with bfloat16 autocast and channels_last
raw decode                 resnets: files to uint8 images, a thread per core, no model
raw openvino int8          torchvision's model by NNCF; batches of 32 float32 tensors in memory
raw openvino int8, streams the same with OpenVINO's throughput hint, batches of 8
resnets: decoded images    an int8 artifact of resnets, uint8 images in memory
resnets: files             what `resnets predict` does with that artifact
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
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
END_TO_END = (
    "script", "script, bf16", "raw decode", "raw openvino int8", "raw openvino int8, streams",
    "resnets: decoded images", "resnets: files",
)  # fmt: skip
SCRIPT_IMAGES, IMAGES = 160, 1024  # of a pass: of the scripts, which are slow; of the others
BATCH = 32
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
    from resnets.runtime.torch import TorchBackend

    kind, _, precision = name.removeprefix("resnets: ").partition(" ")
    if precision:
        engine: Any = open_own_artifact(kind, precision, model_name, size, folder)
    else:
        engine = TorchBackend(package_model(model_name, size), "cpu")
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
    from resnets.export.write.classifier import write_artifact
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


def make_end_to_end(
    name: str, model_name: str, size: int, images: Path, folder: Path
) -> tuple[Step, int]:
    """Return a function that makes one pass, and the number of images of a pass.

    images: a folder of class folders. folder: for exported models.
    """
    if name.startswith("script"):
        return _script(model_name, size, images, bf16=name.endswith("bf16")), SCRIPT_IMAGES
    if name.startswith("raw openvino"):
        return _raw_openvino(model_name, size, folder, streams=name.endswith("streams")), IMAGES
    return _package(name, model_name, size, images, folder), IMAGES


def _script(model_name: str, size: int, images: Path, bf16: bool) -> Step:
    import torch
    import torchvision
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms as T

    transform = T.Compose([
        T.Resize(size * 256 // 224), T.CenterCrop(size), T.ToTensor(),
        T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    dataset = torchvision.datasets.ImageFolder(str(images), transform)
    subset = Subset(dataset, list(islice(cycle(range(len(dataset))), SCRIPT_IMAGES)))
    model = torchvision.models.get_model(model_name).eval()
    model = model.to(memory_format=torch.channels_last) if bf16 else model

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for batch, _ in DataLoader(subset, BATCH, num_workers=threads()):
                if bf16:
                    batch = batch.contiguous(memory_format=torch.channels_last)
                model(batch).argmax(1).tolist()

    return step


def _raw_openvino(model_name: str, size: int, folder: Path, streams: bool) -> Step:
    import openvino as ov

    model = openvino_model("int8", model_name, size, folder)
    batch = 8 if streams else BATCH
    model.reshape([batch, 3, size, size])
    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "THROUGHPUT" if streams else "LATENCY",
        "INFERENCE_NUM_THREADS": threads(),
    }
    queue = ov.AsyncInferQueue(ov.compile_model(model, "CPU", hints))
    images = np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)

    def step() -> None:
        for _ in range(IMAGES // batch):
            queue.start_async({0: images})
        queue.wait_all()

    return step


def _package(name: str, model_name: str, size: int, images: Path, folder: Path) -> Step:
    from resnets.evaluate.predict import find_images, predict

    engine = open_own_artifact("openvino", "int8", model_name, size, folder)
    paths = list(islice(cycle(find_images([images])), IMAGES))
    if name == "resnets: files":
        return lambda: sum(1 for _ in predict(engine, paths, top_k=1, workers=threads()))
    read = engine.preprocess.to_tensor
    if name == "raw decode":
        pool = ThreadPoolExecutor(threads())
        return lambda: sum(1 for _ in pool.map(read, paths))
    decoded = np.stack([read(path).permute(1, 2, 0).numpy() for path in paths[: engine.batch * 4]])

    def step() -> None:
        for _ in range(IMAGES // len(decoded)):
            engine.probabilities(decoded)

    return step


def limits(rates: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the rates to compare `resnets: files` with, in each round."""
    inference, decode = rates["resnets: decoded images"], rates["raw decode"]
    return {
        "the script": rates["script"],
        "the slower of raw decode and inference alone": [*map(min, inference, decode)],
        "raw openvino int8": rates["raw openvino int8"],
        "raw openvino int8, streams": rates["raw openvino int8, streams"],
        "both on the same cores, 1 / (1/decode + 1/inference)": [
            1 / (1 / a + 1 / b) for a, b in zip(inference, decode, strict=True)
        ],
    }
