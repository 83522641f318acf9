"""The checkpoints of one run: the newest, those before it and the best; which to go on from.

`last.safetensors` is the newest. Before it is replaced, what it holds gets the name
`step-<8 digits>.safetensors`, and the oldest of those are removed. At each moment, also between
two of these steps, some intact file is the newest.

With `Recipe.checkpoint_url` they lie there, under the name of the run's folder. Each is written
into the run's folder first and removed from it when it has arrived; what has not arrived stays and
goes with the next one.
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

from resnets.config import ConfigError, Recipe, atomic_write, from_toml, to_toml
from resnets.weights.checkpoint.format import (
    BEST,
    FOLDER,
    LAST,
    RECIPE,
    Checkpoint,
    Encoded,
    older_steps,
    place_for,
    read_whole,
    step_name,
    step_of,
)
from resnets.weights.checkpoint.store import Folder, Store
from resnets.weights.checkpoint.store_url import UrlStore, named, open_store, path_of, url_of
from resnets.weights.errors import CheckpointError, StoreError

T = TypeVar("T")
_log = logging.getLogger(__name__)


def bring_back(url: str, out: Path) -> bool:
    """Make the run folder `out` anew, of a run whose checkpoints are at `url`; False if none are.

    Raises CheckpointError where the place does not answer, ConfigError where nothing opens it.
    """
    store = open_store(url)
    try:
        if RECIPE not in store.names():
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
    """A checkpoint to resume from; CheckpointError for one that only has weights to use."""
    checkpoint = read_whole(path)
    state = checkpoint.meta.get("state")
    if state is None:
        raise CheckpointError(
            f"{named(path)}: has weights but no training state to resume from; it may be a copy of"
            f" {BEST}"
        )
    if not isinstance(state, dict):
        raise checkpoint.wrong("state", "an object", state)
    return checkpoint


class CheckpointManager:
    """Checkpoints of the run in `out`, where its recipe puts them. One process at a time writes."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self._count = recipe.keep_checkpoints
        self._near = Folder(out / FOLDER)
        self._far: UrlStore | None = None
        if recipe.checkpoint_url is not None:
            place = place_for(out, recipe.checkpoint_url)
            if url_of(place) is None:  # file://
                self._near = Folder(path_of(place))
            else:
                self._far = UrlStore(place)
        self._store: Store = self._far or self._near
        self._written: dict[str, int] = {}  # steps of the files this process wrote into `near`
        self._last: int | None = None  # step of an intact LAST in `store`
        self._older: set[int] = set()
        self._restored: Checkpoint | None = None
        self._looked_back = False
        self._good: tuple[str, int] | None = None  # what this process wrote last, and its step

    @property
    def path(self) -> str:
        """Path or URL of the newest."""
        return self._store.at(LAST)

    def begun(self) -> bool:
        """Whether there is any checkpoint, intact or not. Raises CheckpointError."""
        names = self._tried(self._store.names)
        return LAST in names or BEST in names or bool(older_steps(names))

    def check_free(self) -> None:
        """Raise ConfigError where another run's checkpoints are; they would be overwritten."""
        if self.begun():
            raise ConfigError(
                f"{self._store.at('')} holds checkpoints of a run already; go on with that run, or "
                "give another --out"
            )

    def begin(self, recipe: Recipe) -> None:
        """Before the first step, put the recipe behind the URL, which must be open to us by then.

        Raises CheckpointError where it is not.
        """
        far = self._far
        if far is not None:
            self._tried(lambda: far.write_text(RECIPE, to_toml(recipe)))

    def newest(self) -> Checkpoint | None:
        """The newest intact one to go on from, or None where there is none at all.

        Those passed over are named in a warning. Raises CheckpointError where all are damaged, or
        where their place does not answer.
        """
        names = self._tried(self._store.names)
        found = [(self._store, step_name(step)) for step in reversed(older_steps(names))]
        found = [(self._store, LAST), *found] if LAST in names else found
        if self._far is not None and LAST in self._tried(self._near.names):
            # Another machine may have gone on since; what has no step is looked at, and named.
            found = sorted([(self._near, LAST), *found], key=lambda each: -self._said(*each))
        lost = found and found[0][1] != LAST
        bad = [f"{self._store.at(LAST)}: no such checkpoint"] if lost else []
        for store, name in found:
            path = self._fetch(store, name)
            try:
                checkpoint = read_resumable(path)
            except CheckpointError as error:
                bad.append(str(error))
                continue
            if bad:
                _log.warning("%s; going on from %s instead", "; ".join(bad), store.at(name))
            self._fetch_beside(store, checkpoint)
            return checkpoint
        if bad:
            raise CheckpointError(f"{'; '.join(bad)}; no older checkpoint is intact")
        _log.warning("%s: no such checkpoint; starting again from the first step", self.path)
        return None

    def _fetch_beside(self, store: Store, checkpoint: Checkpoint) -> None:
        """Bring the file that a checkpoint behind a URL refers to, to where its copy is."""
        beside = checkpoint.meta.get("images", {}).get("file")
        if beside and not (checkpoint.path.parent / beside).exists():
            with suppress(StoreError):  # who reads it says what is missing
                shutil.copyfile(store.fetch(beside), checkpoint.path.parent / beside)

    def _said(self, store: Store, name: str) -> float:
        """Step that a file claims to be of, by its name or header; infinite where it has none."""
        steps = older_steps([name])
        step = steps[0] if steps else step_of(self._fetch(store, name))
        return math.inf if step is None else float(step)

    def going_on(self, restored: Checkpoint) -> None:
        """What `newest` gave is what the run goes on from: all that is newer is worth nothing."""
        self._restored = restored
        if restored.path.name == LAST and not self._waits(restored):
            self._last = restored.meta["step"]

    def save(self, name: str, payload: Encoded, step: int, *, final: bool = False) -> None:
        """Write LAST or BEST; raises CheckpointError, which names what is intact.

        A URL that does not answer ends the run only where the file is its `final` one; before, it
        gets a warning, and the file waits in the run's folder.
        """
        if self._far is None:
            self._place(name, step, lambda: self._near.put(name, payload))
            return
        try:
            self._near.put(name, payload)
        except StoreError as error:
            raise self._refused(self._near, name, step, error) from None
        self._written[name] = step
        if name == LAST:
            self._good = (self._near.at(LAST), step)
        self.send(final=final)

    def put_beside(self, name: str, payload: Encoded) -> None:
        """Write a file that checkpoints refer to where they lie; raises CheckpointError."""
        self._tried(lambda: self._near.put(name, payload))
        far = self._far
        if far is not None:
            self._tried(lambda: far.upload(self._near.fetch(name), name))

    def send(self, *, final: bool) -> None:
        """Put behind the URL what waits in the run's folder; raises CheckpointError if `final`."""
        if self._far is None:
            return
        for name in (BEST, LAST):
            try:
                self._send(self._far, name)
            except CheckpointError as error:
                stays = f"{error}; it waits in {self._near.at(name)}"
                if final:
                    raise CheckpointError(f"{stays}, for `resnets train --resume`") from None
                _log.warning("%s, and training goes on", stays)
                return

    def _send(self, far: UrlStore, name: str) -> None:
        path = self._near.fetch(name)
        if not path.exists():
            return
        if not self._overtaken(name):
            step = self._step_of(name)
            self._place(name, step, lambda: far.upload(path, name))
        self._tried(lambda: self._near.remove(name))
        self._written.pop(name, None)

    def last_good(self) -> str:
        """Which checkpoint a failure would leave, in a few words."""
        good = self._good
        if good is None:  # another process writes, or nobody did yet
            step = step_of(self._near.fetch(LAST))
            good = None if step is None else (self._near.at(LAST), step)
            restored = self._restored
            if restored is not None and (good is None or good[1] < restored.meta["step"]):
                good = (named(restored.path), restored.meta["step"])
        if good is not None:
            return f"last good checkpoint: {good[0]} (step {good[1]:,})"
        return f"checkpoints: {self._far.url}" if self._far else "no checkpoint written yet"

    def _place(self, name: str, step: int, put: Callable[[], None]) -> None:
        """Put LAST or BEST where it stays."""
        try:
            if name == LAST:
                self._set_aside(step)
            put()
        except StoreError as error:
            raise self._refused(self._store, name, step, error) from None
        if name == LAST:
            self._last = step
            self._good = (self._store.at(LAST), step)
            self._prune()

    def _set_aside(self, step: int) -> None:
        """Give what LAST holds its name as an older one."""
        if self._restored is not None and not self._looked_back:
            self._look_back(self._restored)
            self._looked_back = True
        if self._last is not None and self._last != step and self._count > 1:
            self._store.keep(LAST, step_name(self._last))
            self._older.add(self._last)

    def _look_back(self, restored: Checkpoint) -> None:
        """What a resumed run finds in the store."""
        names, step = self._store.names(), restored.meta["step"]
        self._older = {each for each in older_steps(names) if each <= step}
        if self._waits(restored) and LAST in names:
            try:
                self._last = read_whole(self._store.fetch(LAST)).step
            except CheckpointError:
                self._last = None

    def _prune(self) -> None:
        """Remove all older ones but the newest few, and what killed processes left half written."""
        self._older = set(sorted(self._older, reverse=True)[: self._count - 1])
        stay = {step_name(step) for step in self._older}
        try:
            for name in self._store.names():
                half = name.startswith(".") and name.endswith(".safetensors.tmp")
                if half or (older_steps([name]) and name not in stay):
                    self._store.remove(name)
        except StoreError as error:
            _log.warning("%s: older checkpoints cannot be removed (%s)", self._store.at(""), error)

    def _step_of(self, name: str) -> int:
        """Step of a file that waits; one that another process left is verified first."""
        if name in self._written:
            return self._written[name]
        return read_whole(self._near.fetch(name)).step

    def _overtaken(self, name: str) -> bool:
        """Whether the run went on from the URL, past what an earlier process left in its folder."""
        restored = self._restored
        return name not in self._written and restored is not None and not self._waits(restored)

    def _waits(self, checkpoint: Checkpoint) -> bool:
        """Whether it has not arrived behind the URL yet."""
        return self._far is not None and checkpoint.path.parent == self._near.path

    def _refused(self, store: Store, name: str, step: int, error: StoreError) -> CheckpointError:
        return CheckpointError(
            f"{store.at(name)}: cannot write the checkpoint of step {step:,} ({error.reason}); "
            f"{error.cure}; {self.last_good()}"
        )

    def _fetch(self, store: Store, name: str) -> Path:
        return self._tried(lambda: store.fetch(name))

    def _tried(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except StoreError as error:
            raise CheckpointError(f"{self._store.at('')}: {error}") from None
