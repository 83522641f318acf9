"""What the product does on a simulated device, in a process of its own; prints one JSON object.

python fake_device_runs.py cpu|cuda|cuda:1|mps FOLDER [plain] [settings] [optimizers] [tasks]
    [evaluation] [graph] [resume] [detectors] [inference] [threads] [tools] [commands]

`tasks`, `tools` and `commands` use the run that `plain` trains.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import fake_device
import numpy as np
import torch
from detect_sets import write_coco
from fake_detectors import waits_of_detectors, waits_of_inference
from PIL import Image

import resnets
from resnets import recipes
from resnets.bulk.plan import lock_output
from resnets.bulk.run import BulkOptions, prepare_run
from resnets.cli.main import main
from resnets.config import Recipe, replace_fields
from resnets.data.batch import Batch
from resnets.evaluate.metrics.multilabel import MultilabelMeter
from resnets.runtime.inference_module import InferenceModule
from resnets.runtime.open import open_artifact
from resnets.study.grid.shared_process import own_stream
from resnets.study.grid.worker import train_cell
from resnets.train.cuda_graph import capture
from resnets.train.execution_plan import choose_plan
from resnets.train.run import build_step, open_task, run_training
from resnets.train.saver import Snapshot
from resnets.train.step import TrainStep
from resnets.train.tasks.custom_parts import CustomParts
from resnets.utils.machine.distributed import ProcessGroup

SHORT = {"duration": "8it", "log_every": "100it", "eval.every": "100ep", "precision": "float32"}

THIN = {"model.widths": "[4,4,4]", "model.stem_width": "4", "batch_size": "8"}


def waits_of_steps(kind: str, fields: dict[str, str], name: str = "digits") -> dict[str, float]:
    """Waits per step of steps 4 to 7 of 8, with the making of their batches."""
    recipe = replace_fields(recipes.recipe(name), SHORT | fields)
    task, group = open_task(recipe, None, CustomParts()), ProcessGroup()
    plan = choose_plan(task.recipe, task.model, task.examples, kind)
    step, stream = build_step(task, plan, group, is_new=True)
    for batch in itertools.islice(stream.batches(0, 8), 7):
        step(batch)
        if step.state.step == 3:
            fake_device.waits.clear()
    return by_file(fake_device.waits)


def by_file(waits: Counter[tuple[str, str]]) -> dict[str, float]:
    """Waits of four steps as waits per step by kind and file."""
    return {f"{kind}, {place.partition(':')[0]}": n / 4 for (kind, place), n in waits.items()}


def run_of_steps(folder: Path, kind: str) -> dict[str, Any]:
    """Waits per step of the loop of a run of 8 steps, in steps 4 to 7, and the test loss."""
    step, seen = TrainStep.__call__, Counter[tuple[str, str]]()

    def counted(self: TrainStep, batch: Batch) -> None:
        if self.state.step == 3:
            fake_device.waits.clear()
        step(self, batch)
        if self.state.step == 7:
            seen.update(fake_device.waits)

    TrainStep.__call__ = counted
    try:
        recipe = replace_fields(recipes.recipe("digits"), SHORT)
        result = run_training(recipe, folder, device=kind, quiet=True)
    finally:
        TrainStep.__call__ = step
    return {"waits": by_file(seen), "loss": result["test"]["loss"]}


def waits_of_a_graph(folder: Path, kind: str) -> dict[str, Any]:
    """Waits of the bodies of steps 3 to 8 of a run with `cuda_graph`."""
    seen: list[Counter[tuple[str, str]]] = []

    def counted(body: capture.Body, device: torch.device) -> capture.Body:
        def step() -> None:
            fake_device.waits.clear()
            body()
            seen.append(Counter(fake_device.waits))

        return step

    capture.capture = counted
    recipe = replace_fields(
        recipes.recipe("digits"), SHORT | {"cuda_graph": "true", "ema_decay": "0.9"}
    )
    run_training(recipe, folder, device=kind, quiet=True)
    waits = {": ".join(place): n for each in seen[2:] for place, n in each.items()}
    return {"steps": len(seen), "waits": waits}


def cells_in_threads(folder: Path, kind: str) -> tuple[list[list[float]], int]:
    """Test losses of two cells with `cuda_graph`, at once and then alone, and how many streams they
    used.
    """
    capture.capture = capture.plain
    fields = SHORT | THIN | {"cuda_graph": "true", "checkpoint_every": "2it", "ema_decay": "0.9"}
    cells = [
        replace_fields(recipes.recipe("digits"), fields | {"seed": str(seed)}) for seed in (0, 1)
    ]

    streams = []

    def train(recipe: Recipe, folder: Path) -> None:
        with fake_device.FakeDevice(), own_stream(kind):
            streams.append(torch.cuda.current_stream())
            train_cell(recipe, folder, kind)

    names = [[f"{way}-{recipe.seed}" for recipe in cells] for way in ("threads", "alone")]
    threads = [
        threading.Thread(target=train, args=(recipe, folder / name))
        for recipe, name in zip(cells, names[0], strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for recipe, name in zip(cells, names[1], strict=True):
        train(recipe, folder / name)
    results = [[json.loads((folder / n / "result.json").read_text()) for n in way] for way in names]
    losses = [[result["test"]["loss"] for result in way] for way in results]
    return losses, len(set(streams))


def resumed(folder: Path, kind: str) -> float:
    """The test loss of a run that ended at step 4 and was continued."""
    recipe = replace_fields(recipes.recipe("digits"), SHORT | THIN | {"duration": "4it"})
    run_training(recipe, folder, device=kind, quiet=True)
    return run_training(None, folder, duration="8it", device=kind, quiet=True)["test"]["loss"]


def waits_of_an_evaluation(
    kind: str, name: str = "digits", fields: dict[str, str] | None = None
) -> dict[str, int]:
    """Waits of the second evaluation of a run, after its data are on the device."""
    task = open_task(
        replace_fields(recipes.recipe(name), SHORT | (fields or {})), None, CustomParts()
    )
    plan = choose_plan(task.recipe, task.model, task.examples, kind)
    evaluate = task.evaluator(plan, ProcessGroup())
    assert evaluate is not None
    task.model.to(plan.device)
    evaluate(task.model)
    fake_device.waits.clear()
    evaluate(task.model)
    seen = Counter[str]()
    for (wait, place), count in fake_device.waits.items():
        seen[f"{wait}, {place.partition(':')[0]}"] += count
    return dict(seen)


def waits_of_sets_of_labels(kind: str) -> dict[str, float]:
    """Waits of the metrics of three batches of sets of labels, until they are computed."""
    meter = MultilabelMeter()
    batches = [
        (torch.randn(4, 3).to(kind), (torch.arange(12) % 2).view(4, 3).float().to(kind))
        for _ in range(3)
    ]
    fake_device.waits.clear()
    for batch in batches:
        meter.update(*batch)
    return by_file(fake_device.waits)


def tools(folder: Path, kind: str) -> list[int]:
    """Exit statuses of quick commands: evaluation, Grad-CAM and a detector."""
    run, image = folder / "plain", folder / "digit.png"
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(image)
    return statuses_of(
        kind,
        ("evaluate", str(run), "--out", str(folder / "evaluated")),
        ("predict", str(run), str(image), "--explain", str(folder / "explained")),
        ("train", "detect-small", *small_boxes(folder, 1), "--out", str(folder / "one")),
    )


def bulk_processes(folder: Path, kind: str) -> int:
    """How many processes `--processes 0` means for three shards."""
    images = folder / "images"
    images.mkdir()
    for number in range(3):
        shutil.copy(folder / "digit.png", images / f"{number}.png")
    options = BulkOptions(
        model=str(folder / "plain"),
        data=str(images),
        out=folder / "rows",
        shard_size=1,
        processes=0,
        device=kind,
    )
    with lock_output(options.out):
        return prepare_run(options, print).processes


def small_boxes(folder: Path, iterations: int) -> list[str]:
    """Options of a short training on four small images with boxes and masks."""
    coco = folder / "coco"
    if not coco.exists():
        for split in ("train2017", "val2017"):
            write_coco(coco, split, [(96, 64)] * 4, seed=len(split))
    tiny = ["--set", "batch_size=2", "--set", "detect.train_sizes=[64]", "--set", "weights=none"]
    return ["--data", str(coco), "--iterations", str(iterations), *tiny]


def statuses_of(kind: str, *commands: tuple[str, ...]) -> list[int]:
    """The exit status of each command."""
    return [main([*words, "--device", kind]) for words in commands]


def exported(folder: Path, kind: str) -> float:
    """The largest difference of logits between a network on the device and its artifact."""
    device = torch.device(kind, 0)
    net = resnets.load(folder / "plain").to(device)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)
    artifact = resnets.export(net, "torch", out=folder / "net.pt2", quiet=True).path
    engine = open_artifact(artifact)
    with torch.no_grad():
        ours = InferenceModule(net).to(device)(torch.from_numpy(images).to(device)).cpu()
    return float(np.abs(engine.logits(images) - ours.numpy()).max())


def commands(folder: Path, kind: str) -> list[int]:
    """Exit statuses of slower commands."""
    run, small = folder / "plain", small_boxes(folder, 2)
    maps = ["--model", "resnet18-fcn", "--set", "detect.crop=64"]
    return statuses_of(
        kind,
        ("evaluate", str(run), "--views", "ten-crop", "--out", str(folder / "evaluated")),
        ("features", str(run), "digits", "--out", str(folder / "features.parquet")),
        ("study", "responses", str(run)),
        ("study", "similarity", str(run), "--examples", "8"),
        ("study", "shattered", str(run), "--examples", "8"),
        ("train", "detect-small", *small, "--out", str(folder / "detector")),
        ("train", "segment", *small, *maps, "--out", str(folder / "maps")),
    )


def mixed_devices(kind: str) -> str:
    """What an operator of tensors on two devices raises."""
    try:
        torch.ones(2, device=kind) + torch.ones(2)
    except RuntimeError as error:
        return type(error).__name__
    return ""


def copies_of_another_device() -> bool:
    """Whether a snapshot of tensors that are not on the current device is complete."""
    fake_device.set_device(0)
    tensor, snapshot = torch.arange(4.0).to("cuda:1"), Snapshot()
    snapshot.copy({"a": tensor})
    return bool((snapshot.tensors()["a"] == torch.arange(4.0)).all())


def run_parts(kind: str, folder: Path, parts: list[str]) -> dict[str, Any]:
    """What `parts` ask for, on the simulated device."""
    mixing = {"data.augment.mixup": "0.2", "data.augment.cutmix": "1", "ema_decay": "0.9"}
    policy = {"data.augment.policy": "trivial", "optim.clip_norm": "1.0", "norm_batch": "32"}
    focal = THIN | {"loss.kind": "focal", "loss.class_weights": "auto", "data.balance": "sqrt"}
    distill = THIN | {"distill.teacher": str(folder / "plain")}
    short_text = {"transformer.depth": "1", "transformer.context": "16"}
    found: dict[str, Any] = {}
    if "plain" in parts:
        found["plain"] = run_of_steps(folder / "plain", kind)
        found["environment"] = json.loads((folder / "plain" / "environment.json").read_text())
    if "settings" in parts:
        half = THIN | {"precision": "float16"}
        settings = {"mixing": mixing, "policy": policy, "float16": half}
        found["settings"] = {name: waits_of_steps(kind, each) for name, each in settings.items()}
    if "optimizers" in parts:
        fields = {
            "lamb": {"optim.kind": "lamb"},
            "muon": {"optim.kind": "muon"},
            "float16 lamb": {"optim.kind": "lamb", "precision": "float16"},
            "float16 muon": {"optim.kind": "muon", "precision": "float16"},
            "hold": {"schedule.hold_until_error": "1"},
        }
        found["optimizers"] = {
            name: waits_of_steps(kind, THIN | each) for name, each in fields.items()
        }
    if "tasks" in parts:
        found["tasks"] = {
            "focal": waits_of_steps(kind, focal),
            "distill": waits_of_steps(kind, distill),
            "signals": waits_of_steps(kind, {}, "signals"),
            "text": waits_of_steps(kind, short_text, "text"),
            "quantized": waits_of_steps(kind, {}, "qat"),
        }
    if "evaluation" in parts:
        sets = {"digits": {}, "signals": {}, "text": short_text}
        found["evaluation"] = {
            name: waits_of_an_evaluation(kind, name, each) for name, each in sets.items()
        }
        found["evaluation"]["sets of labels"] = waits_of_sets_of_labels(kind)
    if "graph" in parts:
        found["graph"] = waits_of_a_graph(folder / "graph", kind)
    if "resume" in parts:
        found["resumed"] = resumed(folder / "resumed", kind)
    if "detectors" in parts:
        found["detectors"] = waits_of_detectors(kind)
    if "inference" in parts:
        found["inference"] = waits_of_inference(kind)
    if "threads" in parts:
        found["threads"] = cells_in_threads(folder, kind)
    if "tools" in parts:
        with contextlib.redirect_stdout(sys.stderr):
            found["tools"] = tools(folder, kind)
            found["exported"] = exported(folder, kind)
            found["bulk_processes"] = bulk_processes(folder, kind)
        found["explained"] = len(list((folder / "explained").glob("*.png")))
    if "commands" in parts:
        with contextlib.redirect_stdout(sys.stderr):
            found["statuses"] = commands(folder, kind)
    found["mixed"] = mixed_devices(kind)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, folder, parts = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if kind == "cpu":
        found = {"plain": run_of_steps(folder / "plain", "cpu")}
        print(json.dumps(found | {"resumed": resumed(folder / "resumed", "cpu")}))
    elif kind == "cuda:1":
        fake_device.install("cuda", 1)
        with fake_device.FakeDevice():
            print(json.dumps(copies_of_another_device()))
    else:
        fake_device.install(kind)
        with fake_device.FakeDevice():
            print(json.dumps(run_parts(kind, folder, parts)))
