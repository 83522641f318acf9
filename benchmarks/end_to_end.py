"""The contenders of `inference.py --part end-to-end`: from JPEG files to classes.

Each step is a whole pass from a cold pipeline to the last answer; only `raw ...` have their input
ready. All compute the same net (random weights) with all cores.

script                     what a tutorial has: ImageFolder, DataLoader with a worker a core,
                           Resize, CenterCrop, ToTensor, Normalize, torchvision's net, float32,
                           `model(x)`
script, bf16               the same under bfloat16 autocast, channels last
raw decode                 ours: files to uint8 pictures, a thread a core, no net
raw openvino int8          torchvision's net by NNCF; batch 32 of ready float32 tensors
raw openvino int8, streams the same with OpenVINO's throughput hint, batches of 8
ours: ready pictures       an int8 artifact of ours, uint8 pictures in memory
ours: files                what `resnets predict` does with that artifact
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from inference_peers import Step, openvino_model, our_artifact, threads

NAMES = (
    "script", "script, bf16", "raw decode", "raw openvino int8", "raw openvino int8, streams",
    "ours: ready pictures", "ours: files",
)  # fmt: skip
FEW, MANY = 160, 1024  # pictures of a pass: of the scripts, which are slow; of the others
BATCH = 32


def write_pictures(folder: Path, count: int) -> Path:
    """Pictures like ImageNet's: 500 x 375, 105 KB (see input_pipeline.py)."""
    from input_pipeline import write_pictures

    write_pictures(folder / "pictures", count, enlarge=True)
    return folder / "pictures"


def contender(name: str, net: str, size: int, pictures: Path, folder: Path) -> tuple[Step, int]:
    """One pass, and how many pictures it answers."""
    if name.startswith("script"):
        return _script(net, size, pictures, bf16=name.endswith("bf16")), FEW
    if name.startswith("raw openvino"):
        return _raw_openvino(net, size, folder, streams=name.endswith("streams")), MANY
    return _ours(name, net, size, pictures, folder), MANY


def _script(net: str, size: int, pictures: Path, bf16: bool) -> Step:
    import torch
    import torchvision
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms as T

    transform = T.Compose([
        T.Resize(size * 256 // 224), T.CenterCrop(size), T.ToTensor(),
        T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    found = torchvision.datasets.ImageFolder(str(pictures), transform)
    few = Subset(found, list(islice(cycle(range(len(found))), FEW)))
    model = torchvision.models.get_model(net).eval()
    model = model.to(memory_format=torch.channels_last) if bf16 else model

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for images, _ in DataLoader(few, BATCH, num_workers=threads()):
                if bf16:
                    images = images.contiguous(memory_format=torch.channels_last)
                model(images).argmax(1).tolist()

    return step


def _raw_openvino(net: str, size: int, folder: Path, streams: bool) -> Step:
    import openvino as ov

    model = openvino_model("int8", net, size, folder)
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
        for _ in range(MANY // batch):
            queue.start_async({0: images})
        queue.wait_all()

    return step


def _ours(name: str, net: str, size: int, pictures: Path, folder: Path) -> Step:
    from resnets.evaluate.predict import find_images, predict

    engine = our_artifact("openvino", "int8", net, size, folder)
    paths = list(islice(cycle(find_images([pictures])), MANY))
    if name == "ours: files":
        return lambda: sum(1 for _ in predict(engine, paths, top_k=1, workers=threads()))
    read = engine.preprocess.to_tensor
    if name == "raw decode":
        pool = ThreadPoolExecutor(threads())
        return lambda: sum(1 for _ in pool.map(read, paths))
    ready = np.stack([read(path).permute(1, 2, 0).numpy() for path in paths[: engine.batch * 4]])

    def step() -> None:
        for _ in range(MANY // len(ready)):
            engine.probabilities(ready)

    return step


def limits(rates: dict[str, list[float]]) -> dict[str, list[float]]:
    """What `ours: files` is held against, round by round."""
    ready, decode = rates["ours: ready pictures"], rates["raw decode"]
    return {
        "the script": rates["script"],
        "the slower of raw decode and our raw inference": [*map(min, ready, decode)],
        "raw openvino int8": rates["raw openvino int8"],
        "raw openvino int8, streams": rates["raw openvino int8, streams"],
        "both on the same cores, 1 / (1/decode + 1/inference)": [
            1 / (1 / a + 1 / b) for a, b in zip(ready, decode, strict=True)
        ],
    }
