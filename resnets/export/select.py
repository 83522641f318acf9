"""Which runtime computes a checkpoint: the fastest one here that was proved to compute the same.

What is taken by itself on a CPU is the fastest of

- int8, where an artifact that was exported into the run's folder has measured that it loses at
  most half a point;
- OpenVINO in the precision that torch would have (ONNX Runtime, in float32, where OpenVINO is not
  installed), proved by `export/export.py`. Making it takes some ten seconds, so that is done for
  work that is long enough, and kept (`export/cache.py`);
- torch, where neither is faster. Speeds are measured here, once, and kept too.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from resnets.config import ConfigError
from resnets.export.cache import ArtifactCache, ArtifactKey, note_speed, speed_of
from resnets.export.verify import VerificationError
from resnets.models import Net
from resnets.models.cost import count
from resnets.runtime.artifact import (
    SUFFIXES,
    ArtifactError,
    Kind,
    Precision,
    card_of,
    digest_of_net,
    is_artifact,
)
from resnets.runtime.base import Backend, Engine, Runtime
from resnets.runtime.open import open_artifact, times_as_fast
from resnets.runtime.torch import TorchEngine
from resnets.utils import environment
from resnets.weights.load import NOTHING_SAID, LoadOptions, load_model

# Multiply-adds from which on another runtime is made ready, and measured: torch computes them in
# 25 to 50 s on two cores, which is two to four times as long as making it takes.
WORTH = 1e13
MAX_DROP = 0.5  # points of top-1 error that int8 may lose where it is taken by itself


def open_backend(
    path: str | Path,
    *,
    backend: Runtime = "auto",
    device: str = "auto",
    precision: str = "auto",
    pictures: int | None = 1,
    calibrate: str | None = None,
    max_drop: float = 0.5,
    loading: LoadOptions = NOTHING_SAID,
    say: Callable[[str], None] = lambda _: None,
) -> Backend:
    """The backend of an artifact (.onnx, .xml, .pt2), or of a run, checkpoint or published net.

    An artifact computes in its own runtime. A checkpoint computes in torch on an accelerator; on
    the CPU "auto" takes the fastest runtime that is installed, that has proved to compute the same,
    and whose preparation pays for so many `pictures` (None: no end of them); see
    above. `precision` is "auto", "float32", "bfloat16", or "int8", which is calibrated
    and measured on the set `calibrate` and may lose `max_drop` points of top-1 error there.
    loading: what the user says of weights that do not say it. `say` hears of what takes seconds.

    Raises ConfigError where the options contradict each other or a package is missing,
    ArtifactError for a damaged file, `prove.Refused` for what was asked for by name and failed.
    """
    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is not None:
        if backend not in ("auto", kind):
            raise ConfigError(f"{path}: is for {kind}, not {backend}")
        if calibrate is not None:
            raise ConfigError(f"--calibrate: {path} is exported already; name its checkpoint")
        if loading != NOTHING_SAID:
            raise ConfigError(f"--model, --classes: {path} is exported, and says them itself")
        return open_artifact(Path(path), device=device, precision=precision)
    chosen = environment.pick_device(device)
    if calibrate is not None and precision != "int8":
        raise ConfigError("--calibrate: is for --precision int8")
    if chosen.type != "cpu":
        if backend not in ("auto", "torch") or precision == "int8":
            raise ConfigError(f"--device {chosen}: torch computes there, in float32 or bfloat16")
        return TorchEngine(load_model(path, loading), device, precision)
    net = load_model(path, loading)
    chooser = Chooser(net, str(path), precision, pictures, calibrate, max_drop, say)
    return chooser.choose(backend)


@dataclass(frozen=True)
class Candidate:
    """An engine with its speed in that of torch, None where that is not known, and its grounds."""

    engine: Engine
    times: float | None
    grounds: str


@dataclass
class Chooser:
    """Chooses for one net, and keeps in `reasons` why it took what it took.

    where: what `net` was loaded from. precision: "auto", "float32", "bfloat16" or "int8".
    pictures: how many are to come, None for no end. calibrate, max_drop: as export takes them.
    """

    net: Net
    where: str
    precision: str
    pictures: int | None
    calibrate: str | None
    max_drop: float
    say: Callable[[str], None]
    reasons: list[str] = field(default_factory=list)

    def choose(self, runtime: str) -> Engine:
        """The engine; `runtime` is "auto", "torch", "onnx" or "openvino"."""
        engine = self._chosen(runtime)
        engine.note = "; ".join(self.reasons)
        return engine

    def _chosen(self, runtime: str) -> Engine:
        if self.precision == "int8":
            return self._int8(runtime)
        if runtime == "torch":
            return self._torch
        if runtime == "auto":
            return self._fastest()
        return self._made(ArtifactKey(_kind(runtime), self._precise()))

    @functools.cached_property
    def _torch(self) -> TorchEngine:
        return TorchEngine(self.net, "cpu", "auto" if self.precision == "int8" else self.precision)

    @functools.cached_property
    def _least(self) -> int:
        """Pictures from which on it pays to make another runtime ready."""
        cost = count(self.net, self.net.preprocess.spec.size).multiply_adds
        return max(1, int(WORTH / max(cost, 1)))

    @property
    def _pays(self) -> bool:
        return self.pictures is None or self.pictures >= self._least

    def _precise(self) -> Precision:
        found = environment.pick_precision(self.precision, environment.pick_device("cpu"))
        return "bfloat16" if found == "bfloat16" else "float32"

    def _fastest(self) -> Engine:
        exported = self._exported(MAX_DROP) if self.precision == "auto" else None
        if exported is not None and exported.times is None:
            self.reasons = [exported.grounds]  # too few pictures to find out what else there is
            return exported.engine
        offers = [each for each in (exported, self._proved()) if each is not None]
        offers.sort(key=lambda each: each.times or 0.0)
        for slower in offers[:-1]:
            self.reasons.append(f"{slower.engine.name} has {slower.times:.2f} x")
        if offers and (offers[-1].times or 0.0) >= 1:
            self.reasons.insert(0, offers[-1].grounds)
            return offers[-1].engine
        self.reasons += [f"{each.engine.name} has {each.times:.2f} x" for each in offers[-1:]]
        return self._torch

    def _int8(self, runtime: str) -> Engine:
        """What was asked for by name; Refused where it does not pass the gate."""
        if runtime == "torch":
            raise ConfigError("--precision int8: torch does not compute it; take openvino or onnx")
        if self.calibrate is not None:
            kind = _kind(runtime) if runtime != "auto" else _int8_kind()
            kept = ArtifactCache(self.net, ArtifactKey(kind, "int8", self.calibrate, self.max_drop))
            engine = self._made(kept.wanted, kept)
            self.reasons.append(_lost(_measured_rise(kept.path, kept.net) or 0.0))
            return engine
        offer = self._exported(self.max_drop, runtime)
        if offer is None:
            raise ConfigError(
                "--precision int8: name pictures to take its ranges from and to count its errors"
                f" on, with --calibrate DATA ({'; '.join(self.reasons)})"
            )
        self.reasons = [offer.grounds]
        return offer.engine

    def _exported(self, max_drop: float, runtime: str = "auto") -> Candidate | None:
        """An int8 artifact of this net in its run's folder that measured its loss."""
        found = [
            path
            for path in _artifacts_beside(self.where)
            if runtime in ("auto", SUFFIXES[path.suffix]) and _present(SUFFIXES[path.suffix])
        ]
        own = digest_of_net(self.net) if found else ""
        for path in sorted(found, key=lambda each: each.suffix != ".xml"):
            rise = _measured_rise(path, own)
            if rise is None:
                continue
            if rise > max_drop:
                self.reasons.append(f"{path.name} loses {rise:.2f} points")
                continue
            try:
                engine = open_artifact(path)
            except (ArtifactError, OSError) as error:  # damaged, or being replaced just now
                self.reasons.append(" ".join(str(error).split()))
                continue
            grounds = f"{path.name} {_lost(rise)}; --backend torch takes the net"
            times = self._times(engine, path) if self.precision == "auto" else None
            return Candidate(engine, times, grounds)
        if not self.reasons:
            self.reasons.append("int8 is not measured: resnets export --int8 --calibrate DATA")
        return None

    def _proved(self) -> Candidate | None:
        """Another runtime in the precision of torch; None where there is none that pays."""
        precision = self._precise()
        kind: Kind = "openvino" if _present("openvino") else "onnx"
        if kind == "onnx" and (precision != "float32" or not _present("onnx")):
            self.reasons.append("openvino is not installed: pip install 'resnets[deploy]'")
            return None
        kept = ArtifactCache(self.net, ArtifactKey(kind, precision))
        known = kept.ready and speed_of(kept.path) is not None
        if kept.refusal is None and not known and not self._pays:
            self.reasons.append(f"{kind} pays from {self._least:,} pictures on")
            return None
        try:
            engine = self._made(kept.wanted, kept)
            times = self._times(engine, kept.path)
        except (
            VerificationError,
            OSError,
        ) as error:  # it fails its proof, or the cache cannot be written
            self.reasons.append(f"{kind}: {' '.join(str(error).split())}")
            return None
        if times is None:  # what was known has gone meanwhile
            self.reasons.append(f"{kind}: its speed is measured from {self._least:,} pictures on")
            return None
        return Candidate(engine, times, f"proved equal to the net, {times:.1f} x torch's speed")

    def _times(self, engine: Engine, path: Path) -> float | None:
        """Its speed in that of torch; measured if that pays and it is not known to be faster."""
        times = speed_of(path)
        if (times is None or times < 1) and self._pays:  # other jobs may have been in its way
            times = times_as_fast(engine, self._torch)
            try:
                note_speed(path, times)
            except OSError as error:  # it is measured again the next time
                self.reasons.append(f"its speed cannot be kept ({error.strerror or error})")
        return times

    def _made(self, wanted: ArtifactKey, kept: ArtifactCache | None = None) -> Engine:
        """The artifact of the cache, made now if it is not there."""
        kept = kept or ArtifactCache(self.net, wanted)
        if kept.refusal is not None:
            raise VerificationError(kept.refusal)
        if kept.ready:
            try:
                return self._opened(kept)
            except ArtifactError:  # somebody changed it
                kept.forget()
        self.say(f"making the net ready for {wanted.kind} {wanted.precision}, once")
        kept.make(self.where)
        return self._opened(kept)

    def _opened(self, kept: ArtifactCache) -> Engine:
        engine = open_artifact(kept.use())
        engine.origin = self.net.origin
        return engine


def _present(kind: Kind) -> bool:
    """Whether the packages are there that make and compute such artifacts."""
    needed = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "torch": ()}
    return all(find_spec(package) is not None for package in needed[kind])


def _kind(runtime: str) -> Kind:
    return "onnx" if runtime == "onnx" else "openvino"


def _int8_kind() -> Kind:
    ready = _present("openvino") and find_spec("nncf") is not None
    return "openvino" if ready or not _present("onnx") else "onnx"


def _artifacts_beside(where: str) -> list[Path]:
    """Artifacts with a card in the folder of a run or checkpoint; none of a published net."""
    path = Path(where)
    if not path.exists():
        return []
    folder = path if path.is_dir() else path.parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    return [each for each in folder.iterdir() if is_artifact(each) and card_of(each).is_file()]


def _lost(rise: float) -> str:
    return f"loses {rise:.2f} points of top-1 error" if rise > 0 else "has no more top-1 errors"


def _measured_rise(path: Path, net: str) -> float | None:
    """Points by which the top-1 error of an int8 artifact of the net with this digest rose."""
    try:
        card = json.loads(card_of(path).read_text("utf-8"))
        if card["precision"] == "int8" and card["source"]["net"] == net:
            return float(card["errors"]["rise"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
