"""Commands of the package on the device, as users run them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from gpu_checks.case import Case, Row, Setting, Skipped, rounded
from resnets.cli.main import main

SMALL = ("--set", "data.size=64", "--set", "data.resize=72", "--set", "batch_size=32")
SCRATCH = ("--set", "weights=none", "--set", "batch_size=4")
LAST_LINES = 40  # of a failed command's output that are recorded
GRAPH = "cuda_graph=true"
DIGITS, PHOTOS, CELLS = "digits", "scratch", "detect-small"  # runs that other commands use


class CommandFailed(Exception):  # noqa: N818
    """A command ended with another exit code than 0."""


@dataclass(frozen=True)
class Command:
    """A command line; "{out}" is the folder of outputs, "{data}" that of data sets.

    iterations: of `resnets train`, which writes to {out}/NAME. needs: runs that it uses, which are
    trained first if missing. modules: optional modules that it imports. seconds: see `Case`.
    """

    name: str
    arguments: tuple[str, ...]
    iterations: int = 0
    needs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    seconds: float = 8


def train(
    name: str,
    *arguments: str,
    iterations: int = 60,
    modules: tuple[str, ...] = (),
    seconds: float = 8,
) -> Command:
    """Return the command `resnets train` with --out {out}/NAME."""
    return Command(name, ("train", *arguments), iterations, modules=modules, seconds=seconds)


COCO = ("faster_coco_eval", "pycocotools")
BASICS = (
    train(DIGITS, "digits"),
    train("digits again", "digits"),
    Command("evaluate", ("evaluate", "{out}/digits"), needs=(DIGITS,)),
    train("graph", "digits", "--set", GRAPH, "--set", "ema_decay=0.9"),
    Command("resume", ("train", "--resume", "{out}/digits", "--iterations", "80"), needs=(DIGITS,)),
    train(PHOTOS, "scratch", "--data", "{data}/imagenette160.tar", *SMALL, iterations=12),
    train(
        CELLS,
        "detect-small", "--data", "{data}/bccd.tar", "--set", "detect.skip_invalid=true",
        "--set", "eval.every=6it",
        iterations=6,
        modules=COCO[:1],
        seconds=20,
    ),
)  # fmt: skip
OTHERS = (
    train("float32", "digits", "--set", "precision=float32"),
    train(
        "lamb, clipped, ghost batches, --fit-memory",
        "digits", "--set", "optim.kind=lamb", "--set", "optim.clip_norm=1.0",
        "--set", "norm_batch=32", "--fit-memory",
    ),
    train("cifar10-fast on digits", "cifar10-fast", "--data", "digits", iterations=30),
    train(
        "augmented",
        "digits", "--set", "data.augment.policy=rand", "--set", "data.augment.mixup=0.2",
        "--set", "data.augment.random_erase=0.2",
    ),
    train("distilled", "digits", "--set", "distill.teacher=resnets:digits/cifar-resnet20"),
    train("text", "text"),
    train("signals", "signals"),
    Command("ten-crop", ("evaluate", "{out}/digits", "--views", "ten-crop"), needs=(DIGITS,)),
    Command(
        "features",
        ("features", "{out}/digits", "digits", "--out", "{out}/features.parquet"),
        needs=(DIGITS,),
        modules=("pyarrow",),
    ),
    Command(
        "study responses",
        ("study", "responses", "{out}/digits", "--out", "{out}/responses"),
        needs=(DIGITS,),
    ),
    Command(
        "study identity",
        ("study", "identity", "{out}/digits", "--out", "{out}/identity"),
        needs=(DIGITS,),
    ),
    Command(
        "study gradients",
        (
            "study", "gradients", "cifar-plain8,cifar-resnet8", "--iterations", "10",
            "--out", "{out}/gradients",
        ),
    ),
    Command(
        "study depth",
        (
            "study", "depth", "--models", "cifar-plain8,cifar-resnet8", "--data", "digits",
            "--budget", "20it", "--seeds", "1", "--out", "{out}/depth",
        ),
        seconds=25,
    ),
    Command(
        "predict a data set",
        (
            "predict", "{out}/scratch", "--data", "{data}/imagenette160.tar",
            "--out", "{out}/rows", "--format", "csv",
        ),
        needs=(PHOTOS,),
        seconds=15,
    ),
    train(
        "imagenet-paper",
        "imagenet-paper", "--data", "{data}/imagenette160.tar", "--model", "resnet18-a", *SMALL,
        iterations=6,
    ),
    train(
        "imagenet-rsb-a3",
        "imagenet-rsb-a3", "--data", "{data}/imagenette160.tar", "--model", "resnet18", *SMALL,
        "--set", "data.test_size=64",
        iterations=6,
    ),
    Command(
        "evaluate a detector",
        ("evaluate", "{out}/detect-small"),
        needs=(CELLS,),
        modules=COCO[:1],
        seconds=20,
    ),
    train(
        "instances",
        "instances", "--data", "{data}/coco-tiny.tar", "--model", "resnet18-fpn", *SCRATCH,
        "--set", "detect.train_sizes=[160]",
        iterations=4,
        modules=COCO,
        seconds=20,
    ),
    train(
        "segment",
        "segment", "--data", "{data}/coco-tiny.tar", "--model", "resnet18-fcn", *SCRATCH,
        "--set", "detect.crop=128",
        iterations=4,
        modules=COCO,
        seconds=15,
    ),
    *(
        Command(
            f"study depth, four cells, {jobs} at a time",
            (
                "study", "depth", "--models", "cifar-resnet20", "--data", "digits",
                "--budget", "2000it", "--seeds", "4", "--set", GRAPH,
                "--jobs", str(jobs), "--out", f"{{out}}/depth-{jobs}",
            ),
            seconds=60,
        )
        for jobs in (1, 4)  # 4: in threads of one process
    ),
    train("compiled", "digits", "--set", "compile=on", seconds=60),
)  # fmt: skip


def basics(setting: Setting) -> list[Case]:
    """Return the most used commands, and a case that compares the first two runs of one recipe."""
    cases = _cases(setting, BASICS[:4] if setting.tiny else BASICS)
    comparison = Case("the same run twice", 15, partial(_compare_runs, setting))
    return [*cases[:2], comparison, *cases[2:]]


def others(setting: Setting) -> list[Case]:
    """Return the other commands."""
    return _cases(setting, OTHERS[:1] if setting.tiny else OTHERS)


def _cases(setting: Setting, commands: Sequence[Command]) -> list[Case]:
    return [Case(each.name, each.seconds, partial(_run, setting, each)) for each in commands]


def _output_folder(setting: Setting) -> Path:
    folder = setting.out / "commands"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _require(setting: Setting, name: str) -> Path:
    """Return the folder of run NAME, which is trained first if it is missing."""
    folder = _output_folder(setting) / name
    if not (folder / "result.json").is_file():
        command = next(each for each in BASICS if each.name == name)
        _call(setting, command)
    return folder


def _run(setting: Setting, command: Command) -> list[Row]:
    """Run one command; returns its exit code and seconds, or raises with what it printed."""
    if missing := [module for module in command.modules if find_spec(module) is None]:
        raise Skipped(f"{missing[0]} is not installed")
    for name in command.needs:
        _require(setting, name)
    start = time.perf_counter()
    out = _call(setting, command)
    seconds = time.perf_counter() - start
    notes = []
    if GRAPH in command.arguments:
        notes = _unused_graphs(out)
        if notes and setting.cuda:
            raise CommandFailed("; ".join(notes))
    return [
        {
            "command": command.name,
            "exit code": 0,
            "seconds": rounded(seconds, 2),
            "notes": "; ".join(notes).replace("|", "\\|"),
        }
    ]


def _unused_graphs(folder: Path) -> list[str]:
    """Return why trainings in a folder did not use a CUDA graph, although they were to."""
    files = sorted(folder.rglob("environment.json"))
    if not files:
        return [f"no environment.json in {folder}"]
    plans = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    reasons = [each["cuda_graph_obstacle"] or "?" for each in plans if not each["cuda_graph"]]
    return [f"no CUDA graph: {reason}" for reason in dict.fromkeys(reasons)]


def _call(setting: Setting, command: Command) -> Path:
    """Run a command in this process; returns its output folder or file, without --out {out}.

    Raises CommandFailed if its exit code is not 0; that and its own exceptions have its last lines.
    """
    folder = out = _output_folder(setting)
    arguments = [each.format(out=folder, data=setting.data) for each in command.arguments]
    for each in arguments:
        if each.endswith(".tar"):
            setting.file(Path(each).name)
    if command.iterations:
        out = folder / command.name
        shutil.rmtree(out, ignore_errors=True)
        iterations = 4 if setting.tiny else command.iterations
        arguments += ["--out", str(out), "--iterations", str(iterations)]
    elif "--out" in arguments:
        out = Path(arguments[arguments.index("--out") + 1])
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = main([*arguments, "--device", str(setting.device)])
        lines = output.getvalue().strip().splitlines()
        if status:
            raise CommandFailed(f"{command.name}: exit code {status}: {' '.join(lines[-1:])}")
    except BaseException as error:
        error.add_note("\n".join(output.getvalue().splitlines()[-LAST_LINES:]))
        raise
    return out


def _compare_runs(setting: Setting) -> list[Row]:
    """Compare the test losses of two runs of one recipe."""
    folders = [_require(setting, name) for name in (DIGITS, "digits again")]
    losses = [json.loads((each / "result.json").read_text())["test"]["loss"] for each in folders]
    verdict = "the same loss" if losses[0] == losses[1] else f"losses differ: {losses}"
    return [{"command": "the first two compared", "exit code": None, "notes": verdict}]
