"""Select the backend of a checkpoint: the fastest one that was verified on this machine.

On a CPU, "auto" is the fastest of

- int8, if an artifact in the run folder has a measured loss of at most half a percentage point;
- OpenVINO in the precision torch would use (ONNX Runtime in float32 if OpenVINO is not installed),
  verified by `export/export.py`. Exporting takes about ten seconds, so it is done for enough images
  only, and cached (`export/cache.py`);
- torch, if neither is faster. Speeds are measured on this machine, once, and cached too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch

from resnets.config import ConfigError
from resnets.config.aliases import read_json
from resnets.export.cache import ArtifactCache, ArtifactKey, load_speed, save_speed
from resnets.export.verify import VerificationError
from resnets.models import ImageClassifier
from resnets.models.cost import count_cost
from resnets.runtime.artifact import (
    SUFFIXES,
    ArtifactError,
    ArtifactKind,
    Precision,
    artifact_kind,
    is_artifact,
    manifest_path,
    model_sha256,
    require_torch,
)
from resnets.runtime.base import Backend, Runtime
from resnets.runtime.open import measure_relative_speed, open_artifact
from resnets.runtime.torch import TorchBackend
from resnets.utils.machine import environment
from resnets.utils.machine.precision import pick_precision
from resnets.weights.load import DEFAULT_LOAD_OPTIONS, LoadOptions, load_classifier

# Below this number of multiply-adds no artifact is exported or timed. torch needs 25 to 50 s for
# them on two cores, two to four times as long as the export.
MIN_MULTIPLY_ADDS = 1e13
MAX_DROP = 0.5  # percentage points by which int8 may raise the top-1 error


def open_backend(
    path: str | Path,
    *,
    backend: Runtime = "auto",
    device: str = "auto",
    precision: str = "auto",
    images: int | None = 1,
    calibrate: str | None = None,
    loading: LoadOptions = DEFAULT_LOAD_OPTIONS,
    log: Callable[[str], None] = lambda _: None,
) -> Backend:
    """Open an artifact (.onnx, .xml, .pt2), or a run, checkpoint or published model, for inference.

    An artifact uses its own runtime. A checkpoint uses torch on an accelerator; on the CPU, "auto"
    selects as described above. images: the expected number of inputs, None if unlimited.
    precision: "auto", "float32", "tf32", "float16", "bfloat16" or "int8". calibrate: data set for
    int8 calibration and evaluation, on which the top-1 error may rise by `MAX_DROP`. loading:
    options for weights that do not name their model or classes. log: called before slow steps.

    Raises ConfigError for contradictory options or a missing package, ArtifactError for a damaged
    file, and VerificationError if a backend selected by name fails verification.
    """
    if artifact_kind(path, backend) is not None:
        if calibrate is not None:
            raise ConfigError(f"--calibrate: {path} is already exported; pass its checkpoint")
        if loading != DEFAULT_LOAD_OPTIONS:
            raise ConfigError(f"--model, --classes: {path} is an artifact, which contains them")
        return open_artifact(Path(path), device=device, precision=precision)
    chosen = environment.pick_device(device)
    if calibrate is not None and precision != "int8":
        raise ConfigError("--calibrate: only valid with --precision int8")
    if chosen.type != "cpu":
        require_torch(f"--device {chosen}", backend, precision, "use --device cpu")
        return TorchBackend(load_classifier(path, loading), device, precision)
    model = load_classifier(path, loading)
    selector = BackendSelector(model, str(path), precision, images, calibrate, log)
    return selector.select(backend)


@dataclass(frozen=True)
class Candidate:
    """A backend, its speed relative to torch (None if unknown), and why it would be selected."""

    backend: Backend
    speed: float | None
    reason: str


@dataclass
class BackendSelector:
    """Selects the backend of one model and collects the reasons in `reasons`.

    source: where `model` was loaded from. The other fields are those of `open_backend`.
    """

    model: ImageClassifier
    source: str
    precision: str
    images: int | None
    calibrate: str | None
    log: Callable[[str], None]
    reasons: list[str] = field(default_factory=list)

    def select(self, runtime: str) -> Backend:
        """Return the backend; runtime: "auto", "torch", "onnx" or "openvino"."""
        backend = self._select(runtime)
        backend.note = "; ".join(self.reasons)
        return backend

    def _select(self, runtime: str) -> Backend:
        if self.precision == "int8":
            return self._select_int8(runtime)
        if runtime == "torch" or (runtime == "auto" and self.precision == "float16"):
            return self._torch_backend  # artifacts are in other precisions
        if runtime == "auto":
            return self._select_fastest()
        return self._cached_backend(ArtifactKey(_artifact_kind(runtime), self._cpu_precision()))

    @functools.cached_property
    def _torch_backend(self) -> TorchBackend:
        return TorchBackend(
            self.model, "cpu", "auto" if self.precision == "int8" else self.precision
        )

    @functools.cached_property
    def _min_images(self) -> int:
        """Number of images from which exporting pays off."""
        cost = count_cost(self.model, self.model.preprocess.spec.size).multiply_adds
        return max(1, int(MIN_MULTIPLY_ADDS / max(cost, 1)))

    @property
    def _is_worthwhile(self) -> bool:
        return self.images is None or self.images >= self._min_images

    def _cpu_precision(self) -> Precision:
        precision = pick_precision(self.precision, torch.device("cpu"))
        if precision == "float16":
            raise ConfigError("--precision float16: only supported by torch; use --backend torch")
        return "bfloat16" if precision == "bfloat16" else "float32"

    def _select_fastest(self) -> Backend:
        exported = self._find_exported_int8() if self.precision == "auto" else None
        if exported is not None and exported.speed is None:
            self.reasons = [exported.reason]  # too few images to try other runtimes
            return exported.backend
        candidates = [each for each in (exported, self._verify_other_runtime()) if each is not None]
        candidates.sort(key=lambda each: each.speed or 0.0)
        for slower in candidates[:-1]:
            self.reasons.append(f"{slower.backend.name} runs at {slower.speed:.2f}x")
        if candidates and (candidates[-1].speed or 0.0) >= 1:
            self.reasons.insert(0, candidates[-1].reason)
            return candidates[-1].backend
        self.reasons += [
            f"{each.backend.name} runs at {each.speed:.2f}x" for each in candidates[-1:]
        ]
        return self._torch_backend

    def _select_int8(self, runtime: str) -> Backend:
        """Return the selected int8 backend; VerificationError if it loses too much."""
        if runtime == "torch":
            raise ConfigError("--precision int8: not supported by torch; use openvino or onnx")
        if self.calibrate is not None:
            kind = _artifact_kind(runtime) if runtime != "auto" else _int8_kind()
            key = ArtifactKey(kind, "int8", self.calibrate, MAX_DROP)
            cache = ArtifactCache(self.model, key)
            backend = self._cached_backend(key, cache)
            self.reasons.append(
                _describe_rise(_measured_rise(cache.path, cache.model_sha256) or 0.0)
            )
            return backend
        candidate = self._find_exported_int8(runtime)
        if candidate is None:
            why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
            raise ConfigError(
                "--precision int8: needs images for calibration and evaluation;"
                f" add --calibrate DATA{why}"
            )
        self.reasons = [candidate.reason]
        return candidate.backend

    def _find_exported_int8(self, runtime: str = "auto") -> Candidate | None:
        """Return an int8 artifact of this model in the run folder whose loss was measured."""
        kinds = {path: SUFFIXES[path.suffix.lower()] for path in _artifacts_of_run(self.source)}
        paths = [
            path
            for path, kind in kinds.items()
            if runtime in ("auto", kind) and _is_installed(kind)
        ]
        model_digest = model_sha256(self.model) if paths else ""
        for path in sorted(paths, key=lambda each: each.suffix != ".xml"):
            rise = _measured_rise(path, model_digest)
            if rise is None:
                continue
            if rise > MAX_DROP:
                self.reasons.append(f"{path.name} loses {rise:.2f} points")
                continue
            try:
                backend = open_artifact(path)
            except (ArtifactError, OSError) as error:  # damaged, or being replaced
                self.reasons.append(" ".join(str(error).split()))
                continue
            reason = f"{path.name} {_describe_rise(rise)}; --backend torch uses the original model"
            speed = self._relative_speed(backend, path) if self.precision == "auto" else None
            return Candidate(backend, speed, reason)
        if not self.reasons and self._is_worthwhile:  # for few images it does not matter
            self.reasons.append("no int8 artifact: `resnets export --int8 --calibrate DATA`")
        return None

    def _verify_other_runtime(self) -> Candidate | None:
        """Return another runtime in the precision of torch; None if it does not pay off."""
        precision = self._cpu_precision()
        kind: ArtifactKind = "openvino" if _is_installed("openvino") else "onnx"
        if kind == "onnx" and (precision != "float32" or not _is_installed("onnx")):
            self.reasons.append("openvino is not installed: pip install 'resnets[deploy]'")
            return None
        cache = ArtifactCache(self.model, ArtifactKey(kind, precision))
        known = cache.ready and load_speed(cache.path) is not None
        if cache.failure is None and not known and not self._is_worthwhile:
            return None
        try:
            backend = self._cached_backend(cache.key, cache)
            speed = self._relative_speed(backend, cache.path)
        except (VerificationError, OSError) as error:  # or the cache is not writable
            self.reasons.append(f"{kind}: {' '.join(str(error).split())}")
            return None
        if speed is None:  # its stored speed was removed
            self.reasons.append(f"{kind}: speed is measured from {self._min_images:,} images")
            return None
        return Candidate(backend, speed, f"verified, runs at {speed:.1f}x torch's speed")

    def _relative_speed(self, backend: Backend, path: Path) -> float | None:
        """Return the speed relative to torch; measured if worthwhile and not known to be faster."""
        speed = load_speed(path)
        # A low speed may have been measured on a busy machine.
        if (speed is None or speed < 1) and self._is_worthwhile:
            speed = measure_relative_speed(backend, self._torch_backend)
            try:
                save_speed(path, speed)
            except OSError as error:  # measured again next time
                self.reasons.append(f"cannot store its speed ({error.strerror or error})")
        return speed

    def _cached_backend(self, key: ArtifactKey, cache: ArtifactCache | None = None) -> Backend:
        """Open the cached artifact; export it first if it is missing."""
        cache = cache or ArtifactCache(self.model, key)
        if cache.failure is not None:
            raise VerificationError(cache.failure)
        if cache.ready:
            try:
                return self._open_cached(cache)
            except ArtifactError:  # modified or damaged
                cache.remove()
        self.log(f"exporting to {key.kind} {key.precision} (cached for later runs)")
        cache.make(self.source)
        return self._open_cached(cache)

    def _open_cached(self, cache: ArtifactCache) -> Backend:
        backend = open_artifact(cache.use())
        backend.origin = self.model.origin
        return backend


def _is_installed(kind: ArtifactKind) -> bool:
    """Return whether the packages that write and execute such artifacts are installed."""
    needed: dict[ArtifactKind, tuple[str, ...]] = {
        "onnx": ("onnx", "onnxscript", "onnxruntime"),
        "openvino": ("openvino",),
        "torch": (),
        "executorch": ("executorch",),
    }
    return all(find_spec(package) is not None for package in needed[kind])


def _artifact_kind(runtime: str) -> ArtifactKind:
    return "onnx" if runtime == "onnx" else "openvino"


def _int8_kind() -> ArtifactKind:
    ready = _is_installed("openvino") and find_spec("nncf") is not None
    return "openvino" if ready or not _is_installed("onnx") else "onnx"


def _artifacts_of_run(source: str) -> list[Path]:
    """Return the artifacts with a manifest in the folder of a run or checkpoint."""
    path = Path(source)
    if not path.exists():
        return []
    folder = path if path.is_dir() else path.parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    return [
        each for each in folder.iterdir() if is_artifact(each) and manifest_path(each).is_file()
    ]


def _describe_rise(rise: float) -> str:
    return f"raises the error by {rise:.2f} points" if rise > 0 else "does not raise the error"


def _measured_rise(path: Path, sha256: str) -> float | None:
    """Return the rise of the error of an int8 artifact; None if of other weights, or unknown."""
    try:
        manifest = read_json(manifest_path(path), "manifest")
        if manifest["precision"] == "int8" and manifest["source"]["model_sha256"] == sha256:
            errors = manifest["errors"]
            return float(errors.get("top1_error_rise", errors.get("mAP_error_rise")))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
