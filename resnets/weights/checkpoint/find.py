"""Find the checkpoint of a path or URL: a file, or the best intact one of a run."""

from __future__ import annotations

import contextlib
import logging
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

from resnets.config import Recipe
from resnets.utils.files.json import parse_json
from resnets.utils.suggest import suggest_path
from resnets.weights.checkpoint.format import (
    BEST,
    FOLDER,
    LAST,
    RECIPE,
    Checkpoint,
    older_steps,
    read_header,
    read_run_checkpoint,
    step_name,
)
from resnets.weights.checkpoint.store import (
    CheckpointStore,
    FolderStore,
    display_path,
    local_path,
    open_checkpoint_store,
    remote_url,
)
from resnets.weights.errors import CheckpointError, StoreError

_log = logging.getLogger(__name__)

# Suffixes of weights files. Any other URL is that of a run, whose name may contain a dot.
SUFFIXES = {
    ".safetensors", ".pkl", ".caffemodel", ".h5", ".hdf5", ".keras",
    ".pth", ".pt", ".th", ".tar", ".bin", ".ckpt",
}  # fmt: skip


def open_checkpoint(where: str | Path) -> Checkpoint:
    """Read and verify the best intact checkpoint of a run, or the file `where`.

    Of a run: the best on validation, else the last, else the newest older one. Damaged files that
    are skipped are logged as a warning. Raises CheckpointError if none is intact, and ConfigError
    for a URL without an installed driver.
    """
    path = resolve_file(where)
    if path is not None:
        return read_run_checkpoint(path)
    damaged: list[str] = []
    for path in _iter_candidates(where):
        try:
            checkpoint = read_run_checkpoint(path)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        _warn_skipped(damaged, checkpoint)
        return checkpoint
    raise CheckpointError(f"{'; '.join(damaged)}; no other checkpoint of the run is intact")


def find_checkpoint(where: str | Path) -> Path:
    """Return the file of a run (best on validation, else last) or of a checkpoint's path or URL.

    A run is given by its folder or by the URL of its checkpoints; the file is the one that
    `open_checkpoint` reads, so it is intact. Remote files are downloaded; the path is that of the
    copy. Raises as `open_checkpoint`.
    """
    path = resolve_file(where)
    return open_checkpoint(where).path if path is None else path


def resolve_file(where: str | Path) -> Path | None:
    """Return the file that a path or URL names, downloaded if remote; None if it names a run."""
    url = remote_url(where)
    if url is None:
        path = local_path(where)
        return path if path.is_file() else None
    parent, _, name = url.rpartition("/")
    if Path(name).suffix.lower() not in SUFFIXES:
        return None
    try:
        return open_checkpoint_store(parent).fetch(name)
    except StoreError as error:
        raise CheckpointError(f"{url}: cannot be read ({error.reason}); {error.remedy}") from None


def run_url(out: Path, checkpoint_url: str) -> str:
    """Return the URL of the checkpoints of the run `out`: its name under `checkpoint_url`."""
    return f"{checkpoint_url.rstrip('/')}/{out.resolve().name}"


def read_task(where: str | Path) -> str:
    """Return the task of a run or checkpoint, from the first readable header, not verified.

    Of an artifact, the task in its manifest. "classify" for everything else, such as published
    weights, whose errors are raised when they are loaded. CheckpointError for a path that does not
    exist.
    """
    tasks = get_args(get_type_hints(Recipe)["task"])
    with contextlib.suppress(OSError, ValueError, AttributeError):
        manifest = parse_json(Path(f"{where}.json").read_text("utf-8"))
        if manifest.get("artifact") == Path(where).name and manifest.get("task") in tasks:
            return str(manifest["task"])
    try:
        path = resolve_file(where)
        for each in _iter_candidates(where) if path is None else (path,):
            recipe = read_header(each).get("recipe")
            task = recipe.get("task", "classify") if isinstance(recipe, dict) else None
            if task in tasks:
                return str(task)
    except CheckpointError:
        place = str(where).rpartition("#")[0] or str(where)  # FILE#PART
        if ":" not in place and not Path(place).expanduser().exists():
            raise
    return "classify"


_warned: set[tuple[str, int]] = set()


def _warn_skipped(damaged: Sequence[str], used: Checkpoint) -> None:
    """Log a warning about damaged checkpoints, once per version of the file used instead."""
    message = "; ".join(damaged)
    key = message, used.path.stat().st_mtime_ns
    if damaged and key not in _warned:
        _warned.add(key)
        _log.warning(
            "%s; using %s (step %s) instead", message, display_path(used.path), f"{used.step:,}"
        )


def _iter_candidates(where: str | Path) -> Iterator[Path]:
    """Yield at least one checkpoint of a run: the best, the last, then older ones, newest first.

    Each is from the first store that has it, and is downloaded when it is yielded.
    """
    url, path = remote_url(where), local_path(where)
    if url is not None:
        stores: list[CheckpointStore] = [
            open_checkpoint_store(url),
            open_checkpoint_store(f"{url.rstrip('/')}/{FOLDER}"),
        ]
    else:
        stores = [FolderStore(path / FOLDER)]
        if (recorded := _recorded_url(path)) is not None:
            stores.append(open_checkpoint_store(recorded))
    try:
        files = [store.list_files() for store in stores]
        steps = {step for each in files for step in older_steps(each)}
        any_found = False
        for name in (BEST, LAST, *map(step_name, sorted(steps, reverse=True))):
            for store, each in zip(stores, files, strict=True):
                if name in each:
                    yield store.fetch(name)
                    any_found = True
    except StoreError as error:
        if url is not None:
            raise CheckpointError(
                f"{url}: cannot be read ({error.reason}); {error.remedy}"
            ) from None
        locations = " or ".join(store.location("") for store in stores)
        raise CheckpointError(f"{locations}: cannot be read ({error})") from None
    if any_found:
        return
    if url is not None:
        raise CheckpointError(f"{url}: no checkpoint; give the URL of a run or of a .safetensors")
    if path.is_dir():
        raise CheckpointError(f"{path}: no checkpoint in this folder; give a run or a .safetensors")
    raise CheckpointError(f"{path}: no such run or checkpoint{suggest_path(path)}")


def _recorded_url(out: Path) -> str | None:
    """Return the URL of a run's checkpoints, from its recipe; None if they are in its folder."""
    try:
        recipe = tomllib.loads((out / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    url = recipe.get("checkpoint_url")
    return None if url is None else run_url(out, url)
