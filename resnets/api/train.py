"""`resnets.train`: train a model with a recipe, or resume a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from resnets.api.recipe import choose_duration, choose_recipe
from resnets.api.run import Run
from resnets.config import ConfigError, DataSpec, LossSpec, ModelSpec, Recipe, from_toml
from resnets.config.data import data_source
from resnets.config.ranges import check_range
from resnets.data.sources.objects import open_objects
from resnets.models.custom_model import MakeModel
from resnets.train.guards.interrupt import Interrupted
from resnets.train.resume import describe_differences
from resnets.train.run import run_training
from resnets.train.tasks.custom_parts import CustomParts, Loss
from resnets.utils.api_function import api_function
from resnets.utils.files.locks import RUNS, run_folder
from resnets.utils.machine.distributed import init_distributed
from resnets.weights.checkpoint.find import run_url
from resnets.weights.checkpoint.format import RECIPE
from resnets.weights.checkpoint.manager import restore_run_folder
from resnets.weights.checkpoint.store import remote_url

log = logging.getLogger("resnets")


@api_function
def train(
    recipe: str | Path | Recipe | None = None,
    *,
    data: str | PathLike[str] | DataSpec | Any = None,
    model: str | ModelSpec | nn.Module | MakeModel | None = None,
    loss: str | LossSpec | Mapping[str, Any] | Loss | None = None,
    epochs: float | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    fit_memory: bool = False,
    hang_after: float = 1800,
    quiet: bool = False,
    **fields: Any,
) -> Run:
    """Train a model and return its run, whose folder contains checkpoints, metrics and a report.

        run = resnets.train("scratch", data="photos", epochs=10, optim={"lr": 0.02})

    Args:
        recipe: Name of a recipe (see `resnets.recipes`), a .toml file or a `Recipe`.
        data: Data set: a name, hub:ORG/NAME, a path (docs/data.md), or a `DataSpec`. Or a Python
            object: (images, labels) arrays or tensors, a torch data set, an iterable of (image,
            label), or a mapping of "train", "val" and "test" to these (docs/api.md).
        model: Catalog name (see `resnets info`) or a `ModelSpec`. Or a Python object: an
            `nn.Module` that returns logits (B, K), or a function that creates one from a
            `ModelSpec` whose num_classes, in_channels and input_size are those of the data, such as
            `functools.partial(ResNet, block=MyBlock)`.
        loss: Kind of the loss ("bce") or its fields, such as {"class_weights": "auto"}. Or a
            function of logits (B, K) and classes (B,) that returns the mean loss, or losses (B,).
            Replaces the recipe's loss.
        epochs: Length of the run in epochs; schedules are scaled accordingly.
        iterations: Length of the run in optimizer steps.
        seed: Random seed of initialization, order and augmentation.
        out: Run folder; default runs/RECIPE-N.
        resume: Resume the run in `out` if it exists, otherwise start it. Without `recipe` the run
            must exist, `out` may be the URL of its checkpoints, `data` is the new location of the
            data set, and `epochs` or `iterations` is the new total length. With `recipe`, an
            existing run keeps its own recipe, and differences are logged. Python objects must be
            passed again.
        device: auto, cpu, cuda, cuda:1, mps.
        fit_memory: Halve the micro-batches until they fit into memory; the batch size does not
            change.
        hang_after: Timeout of a step in seconds, after which the process prints the stacks of its
            threads and exits; 0 = no timeout (for debuggers).
        quiet: Print nothing.
        **fields: Other recipe fields: batch_size=64, optim={"lr": 0.1}, **{"data.size": 128}.

    Under torchrun, every process must make the same call. Ctrl-C and SIGTERM save a checkpoint and
    raise `Interrupted`, a KeyboardInterrupt whose message tells how to resume; they are handled
    only in the main thread. Raises ConfigError, DataError, Diverged, OutOfMemory and
    CheckpointError.
    """
    check_range("--hang-after", hang_after, "[0, inf)")
    duration = choose_duration(epochs, iterations)
    named_model = model if isinstance(model, str | ModelSpec) else None
    if isinstance(loss, str | LossSpec | Mapping):
        fields["loss"], loss = loss, None
    parts = CustomParts(None if named_model is not None else model, loss)  # type: ignore[arg-type]
    if isinstance(data, DataSpec):
        fields["data"], source = data, None
    elif data is None or isinstance(data, str | PathLike):
        source = None if data is None else data_source(data)
    else:
        opened = open_objects(data)
        parts, source = replace(parts, data=opened), opened.name
    chosen: Recipe | None = None
    if recipe is not None:
        chosen = choose_recipe(
            recipe,
            data=source,
            model=named_model,
            duration=duration,
            seed=seed,
            fields=fields,
            where="resnets.train",
        )
    elif not resume or out is None:
        raise ConfigError(
            "give a recipe, such as 'digits' (see resnets.recipes), or set resume=True to "
            "resume the run in `out`"
        )
    elif named_model is not None or seed is not None or fields:
        raise ConfigError(
            "a resumed run uses its own recipe; only data, epochs and iterations can be changed"
        )
    if out is None and (resume or "WORLD_SIZE" in os.environ):
        raise ConfigError(
            "--out: required when resuming and with several processes; give the run folder"
        )
    with init_distributed(device) as group:
        if chosen is None:
            out = group.broadcast_from_main(lambda: _restore_from_url(Path(str(out))))
        name = "" if chosen is None else chosen.name
        with run_folder(out, name) as folder:
            exists = resume and group.broadcast_from_main(lambda: _has_run(folder, chosen))
            resumes = exists or chosen is None
            try:
                if exists and chosen is not None and group.is_main:
                    _log_differences(chosen, folder)
                run_training(
                    None if resumes else chosen,
                    folder,
                    data=source if resumes else None,
                    duration=duration if chosen is None else None,
                    group=group,
                    device=device,
                    fit_memory=fit_memory,
                    hang_after=hang_after,
                    quiet=quiet,
                    parts=parts,
                )
            except Interrupted as stop:
                raise Interrupted(
                    f"{stop}; resume with: resnets train --resume {folder} (in Python:"
                    f" resnets.train(out={str(folder)!r}, resume=True))",
                    stop.code,
                ) from None
    return Run(folder, parts.model)


def _has_run(folder: Path, recipe: Recipe | None) -> bool:
    """Whether `folder` has a run, after restoring one from its checkpoint URL if necessary."""
    if (folder / RECIPE).is_file():
        return True
    if recipe is None or recipe.checkpoint_url is None:
        return False
    return restore_run_folder(run_url(folder, recipe.checkpoint_url), folder)


def _log_differences(recipe: Recipe, folder: Path) -> None:
    """Log the fields in which `recipe` differs from that of the existing run in `folder`."""
    for line in describe_differences(recipe, from_toml(folder / RECIPE, stored=True)):
        log.warning("%s: %s", folder, line)


def _restore_from_url(path: Path) -> Path:
    """Return the run folder to resume; a URL is restored to runs/NAME if that does not exist."""
    url = remote_url(path)
    if url is None:
        return path
    folder = RUNS / path.name
    if not (folder / RECIPE).is_file():
        if not restore_run_folder(url, folder):
            raise ConfigError(f"--resume {url}: contains no checkpoints of a run")
        return folder
    checkpoint_url = from_toml(folder / RECIPE, stored=True).checkpoint_url
    if checkpoint_url is None or run_url(folder, checkpoint_url) != url:
        raise ConfigError(
            f"--resume {url}: {folder} contains another run; move that folder away, or resume "
            f"the run in it with --resume {folder}"
        )
    return folder
