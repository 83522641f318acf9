"""Contenders of `inference.py --part end-to-end`: from JPEG files to classes.

Each step is a complete pass from a cold pipeline to the last answer; the inputs of `raw ...` are
ready. All compute the same model (random weights) with all cores.

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

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from inference_contenders import Step, open_own_artifact, openvino_model, threads

NAMES = (
    "script", "script, bf16", "raw decode", "raw openvino int8", "raw openvino int8, streams",
    "resnets: decoded images", "resnets: files",
)  # fmt: skip
SCRIPT_IMAGES, IMAGES = 160, 1024  # of a pass: of the scripts, which are slow; of the others
BATCH = 32


def make_contender(
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
