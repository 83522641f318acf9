"""The checkpoints of one run: the latest, older ones and the best; which one to resume from.

`last.safetensors` is the latest. Before it is replaced, it is preserved as
`step-<8 digits>.safetensors`, and the oldest of those are deleted. At any moment, also between two
of these operations, an intact file has the latest contents.

With `Recipe.checkpoint_url` they are stored there, under the name of the run's folder. Each is
written to the run's folder first and deleted from it after the upload; a file whose upload failed
stays, and is uploaded with the next one.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from resnets.config import ConfigError, Recipe, from_toml, to_toml
from resnets.utils.files.write import atomic_write
from resnets.weights.checkpoint.find import run_url
from resnets.weights.checkpoint.format import (
    BEST,
    FOLDER,
    LAST,
    RECIPE,
    Checkpoint,
    EncodedCheckpoint,
    header_step,
    older_steps,
    read_run_checkpoint,
    step_name,
)
from resnets.weights.checkpoint.store import (
    CheckpointStore,
    FolderStore,
    UrlStore,
    display_path,
    local_path,
    open_checkpoint_store,
    remote_url,
)
from resnets.weights.errors import CheckpointError, StoreError

T = TypeVar("T")
_log = logging.getLogger(__name__)


def restore_run_folder(url: str, out: Path) -> bool:
    """Recreate the run folder `out` of a run with checkpoints at `url`; False if there is no run.

    Raises CheckpointError if the URL cannot be read, ConfigError if no driver is installed for it.
    """
    store = open_checkpoint_store(url)
    try:
        if RECIPE not in store.list_files():
            return False
        recipe = from_toml(store.fetch(RECIPE), stored=True)
    except StoreError as error:
        raise CheckpointError(f"{url}: {error}") from None
    recipe = dataclasses.replace(recipe, checkpoint_url=url.rstrip("/").rpartition("/")[0])
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / RECIPE) as temporary:
        temporary.write_text(to_toml(recipe), encoding="utf-8")
    return True


def read_resumable(path: Path) -> Checkpoint:
    """Read a checkpoint to resume from; CheckpointError for one that only has weights."""
    checkpoint = read_run_checkpoint(path)
    state = checkpoint.meta.get("state")
    if state is None:
        raise CheckpointError(
            f"{display_path(path)}: has weights but no training state to resume from; it may"
            f" be a copy of {BEST}"
        )
    if not isinstance(state, dict):
        raise checkpoint.invalid_entry("state", "an object", state)
    return checkpoint


class CheckpointManager:
    """Checkpoints of the run in `out`, stored where its recipe says; one process writes."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self._count = recipe.keep_checkpoints
        self._local = FolderStore(out / FOLDER)
        self._remote: UrlStore | None = None
        if recipe.checkpoint_url is not None:
            url = run_url(out, recipe.checkpoint_url)
            if remote_url(url) is None:  # file://
                self._local = FolderStore(local_path(url))
            else:
                self._remote = UrlStore(url)
        self._store: CheckpointStore = self._remote or self._local
        self._written: dict[str, int] = {}  # steps of the files that this process wrote locally
        self._last: int | None = None  # step of an intact LAST in `_store`
        self._older: set[int] = set()
        self._restored: Checkpoint | None = None
        self._indexed = False
        self._last_good: tuple[str, int] | None = None  # file this process wrote last, and its step

    @property
    def path(self) -> str:
        """Path or URL of the latest checkpoint."""
        return self._store.location(LAST)

    def exists(self) -> bool:
        """Whether there is any checkpoint, intact or not. Raises CheckpointError."""
        files = self._checkpoint_errors(self._store.list_files)
        return LAST in files or BEST in files or bool(older_steps(files))

    def check_free(self) -> None:
        """Raise ConfigError if another run's checkpoints would be overwritten."""
        if self.exists():
            raise ConfigError(
                f"{self._store.location('')} has checkpoints of another run; resume that run, or "
                "choose another --out"
            )

    def upload_recipe(self, recipe: Recipe) -> None:
        """Store the recipe at the URL, if there is one; this also tests that it is writable.

        Raises CheckpointError if it is not.
        """
        remote = self._remote
        if remote is not None:
            self._checkpoint_errors(lambda: remote.write_text(RECIPE, to_toml(recipe)))

    def latest(self) -> Checkpoint | None:
        """The latest intact checkpoint to resume from, or None if there is none at all.

        A warning names damaged ones that were skipped. Raises CheckpointError if all are damaged,
        or the URL cannot be read.
        """
        files = self._checkpoint_errors(self._store.list_files)
        found = [(self._store, step_name(step)) for step in reversed(older_steps(files))]
        found = [(self._store, LAST), *found] if LAST in files else found
        if self._remote is not None and LAST in self._checkpoint_errors(self._local.list_files):
            # Another machine may have resumed since; files without a step are read, and reported.
            found = sorted(
                [(self._local, LAST), *found], key=lambda each: -self._claimed_step(*each)
            )
        lost = found and found[0][1] != LAST
        bad = [f"{self._store.location(LAST)}: no such checkpoint"] if lost else []
        for store, name in found:
            path = self._fetch(store, name)
            try:
                checkpoint = read_resumable(path)
            except CheckpointError as error:
                bad.append(str(error))
                continue
            if bad:
                _log.warning("%s; resuming from %s instead", "; ".join(bad), store.location(name))
            self._fetch_companion(store, checkpoint)
            return checkpoint
        if bad:
            raise CheckpointError(f"{'; '.join(bad)}; no older checkpoint is intact")
        _log.warning("%s: no such checkpoint; starting from the first step", self.path)
        return None

    def _fetch_companion(self, store: CheckpointStore, checkpoint: Checkpoint) -> None:
        """Download the file that a remote checkpoint refers to, next to the checkpoint's copy."""
        name = checkpoint.meta.get("images", {}).get("file")
        if name and not (checkpoint.path.parent / name).exists():
            with suppress(StoreError):  # reported by the reader of that file
                shutil.copyfile(store.fetch(name), checkpoint.path.parent / name)

    def _claimed_step(self, store: CheckpointStore, name: str) -> float:
        """Step in the name or header of a file; infinity if it has none."""
        steps = older_steps([name])
        step = steps[0] if steps else header_step(self._fetch(store, name))
        return math.inf if step is None else float(step)

    def resume_from(self, restored: Checkpoint) -> None:
        """Continue from the checkpoint that `latest` returned; later files are superseded."""
        self._restored = restored
        if restored.path.name == LAST and not self._is_pending(restored):
            self._last = restored.meta["step"]

    def save(
        self, name: str, payload: EncodedCheckpoint, step: int, *, final: bool = False
    ) -> None:
        """Write LAST or BEST; raises CheckpointError, which names the last good checkpoint.

        A failed upload is an error only for the `final` file of the run; otherwise it is a warning,
        and the file stays in the run's folder until the next upload.
        """
        if self._remote is None:
            self._write(name, step, lambda: self._local.write(name, payload))
            return
        try:
            self._local.write(name, payload)
        except StoreError as error:
            raise self._write_error(self._local, name, step, error) from None
        self._written[name] = step
        if name == LAST:
            self._last_good = (self._local.location(LAST), step)
        self.upload_pending(final=final)

    def save_companion(self, name: str, payload: EncodedCheckpoint) -> None:
        """Write a file that the checkpoints refer to, next to them; raises CheckpointError."""
        self._checkpoint_errors(lambda: self._local.write(name, payload))
        remote = self._remote
        if remote is not None:
            self._checkpoint_errors(lambda: remote.upload(self._local.fetch(name), name))

    def rewrite(self, name: str, payload: EncodedCheckpoint) -> None:
        """Replace LAST or BEST by another version of itself; raises CheckpointError."""
        self.save_companion(name, payload)
        if self._remote is not None:
            self._checkpoint_errors(lambda: self._local.remove(name))

    def upload_pending(self, *, final: bool) -> None:
        """Upload the files still in the run's folder; raises CheckpointError if `final`."""
        if self._remote is None:
            return
        for name in (BEST, LAST):
            try:
                self._upload(self._remote, name)
            except CheckpointError as error:
                message = f"{error}; it is kept in {self._local.location(name)}"
                if final:
                    raise CheckpointError(f"{message} for `resnets train --resume`") from None
                _log.warning("%s; training continues", message)
                return

    def _upload(self, remote: UrlStore, name: str) -> None:
        path = self._local.fetch(name)
        if not path.exists():
            return
        if not self._superseded(name):
            step = self._step_of(name)
            self._write(name, step, lambda: remote.upload(path, name))
        self._checkpoint_errors(lambda: self._local.remove(name))
        self._written.pop(name, None)

    def last_good(self) -> str:
        """Return the checkpoint that would remain after a failure now, for a message."""
        good = self._last_good
        if good is None:  # another process writes, or none has been written
            step = header_step(self._local.fetch(LAST))
            good = None if step is None else (self._local.location(LAST), step)
            restored = self._restored
            if restored is not None and (good is None or good[1] < restored.meta["step"]):
                good = (display_path(restored.path), restored.meta["step"])
        if good is not None:
            return f"last good checkpoint: {good[0]} (step {good[1]:,})"
        return f"checkpoints: {self._remote.url}" if self._remote else "no checkpoint written yet"

    def _write(self, name: str, step: int, put: Callable[[], None]) -> None:
        """Write LAST or BEST to its final store."""
        try:
            if name == LAST:
                self._preserve_last(step)
            put()
        except StoreError as error:
            raise self._write_error(self._store, name, step, error) from None
        if name == LAST:
            self._last = step
            self._last_good = (self._store.location(LAST), step)
            self._prune()

    def _preserve_last(self, step: int) -> None:
        """Preserve LAST under the name of an older checkpoint."""
        if self._restored is not None and not self._indexed:
            self._index_store(self._restored)
            self._indexed = True
        if self._last is not None and self._last != step and self._count > 1:
            self._store.preserve(LAST, step_name(self._last))
            self._older.add(self._last)

    def _index_store(self, restored: Checkpoint) -> None:
        """Find the older checkpoints in the store of a resumed run."""
        files, step = self._store.list_files(), restored.meta["step"]
        self._older = {each for each in older_steps(files) if each <= step}
        if self._is_pending(restored) and LAST in files:
            try:
                self._last = read_run_checkpoint(self._store.fetch(LAST)).step
            except CheckpointError:
                self._last = None

    def _prune(self) -> None:
        """Delete older checkpoints past `keep_checkpoints`, and files left by killed processes."""
        self._older = set(sorted(self._older, reverse=True)[: self._count - 1])
        kept = {step_name(step) for step in self._older}
        try:
            for name in self._store.list_files():
                temporary = name.startswith(".") and name.endswith(".safetensors.tmp")
                if temporary or (older_steps([name]) and name not in kept):
                    self._store.remove(name)
        except StoreError as error:
            _log.warning(
                "%s: older checkpoints cannot be deleted (%s)", self._store.location(""), error
            )

    def _step_of(self, name: str) -> int:
        """Return the step of a file to upload; one of another process is verified first."""
        if name in self._written:
            return self._written[name]
        return read_run_checkpoint(self._local.fetch(name)).step

    def _superseded(self, name: str) -> bool:
        """Return whether the run resumed from the URL, past a file left here by another process."""
        restored = self._restored
        return name not in self._written and restored is not None and not self._is_pending(restored)

    def _is_pending(self, checkpoint: Checkpoint) -> bool:
        """Return whether it has not been uploaded yet."""
        return self._remote is not None and checkpoint.path.parent == self._local.path

    def _write_error(
        self, store: CheckpointStore, name: str, step: int, error: StoreError
    ) -> CheckpointError:
        return CheckpointError(
            f"{store.location(name)}: cannot write the checkpoint of step {step:,}"
            f" ({error.reason}); {error.remedy}; {self.last_good()}"
        )

    def _fetch(self, store: CheckpointStore, name: str) -> Path:
        return self._checkpoint_errors(lambda: store.fetch(name))

    def _checkpoint_errors(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except StoreError as error:
            raise CheckpointError(f"{self._store.location('')}: {error}") from None
