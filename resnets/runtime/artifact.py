"""Artifacts: exported models, with their metadata inside and a manifest next to them.

| suffix | runtime | files |
|---|---|---|
| .onnx | ONNX Runtime | one |
| .xml | OpenVINO | .xml and .bin of one name |
| .pt2 | torch (`torch.export`) | one |
| .pte | ExecuTorch | one |

Each stores `ArtifactMetadata` as JSON in its own metadata, under the key "resnets". The manifest,
<artifact>.json, contains the results of `export/verify.py` and the SHA-256 of the files; a file
whose checksum differs is not opened.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from resnets.config import (
    SOFTMAX,
    ConfigError,
    ModelSpec,
    Postprocess,
    Preprocess,
    Recipe,
    from_dict,
    from_stored_dict,
    to_dict,
)
from resnets.config.aliases import read_json, with_current_names
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import ImageClassifier
from resnets.utils.errors import ResnetsError
from resnets.utils.files.json import parse_json
from resnets.utils.files.write import file_sha256
from resnets.utils.suggest import suggest_path

ArtifactKind = Literal["onnx", "openvino", "torch", "executorch"]
Precision = Literal["float32", "bfloat16", "float16", "int8"]
SUFFIXES: dict[str, ArtifactKind] = {
    ".onnx": "onnx",
    ".xml": "openvino",
    ".pt2": "torch",
    ".pte": "executorch",
}
FORMAT = 1
KEY = "resnets"
# Fields of ModelSpec and Preprocess that version 0.1 hashed regardless of their values.
FIRST_FIELDS = frozenset(
    {
        "name", "block", "depths", "widths", "shortcut", "stride_in", "stem", "stem_width",
        "stem_pool", "groups", "width_per_group", "norm", "norm_eps", "conv_bias", "init",
        "zero_init_residual", "dropout", "drop_path", "blur_pool", "dilate", "num_classes",
        "in_channels", "input_size",
        "size", "resize", "channels", "mean", "std", "interpolation", "channel_order",
        "mean_image", "value_range",
    }
)  # fmt: skip
PACKAGES = (
    "resnets",
    "torch",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "nncf",
    "executorch",
    "torchao",
)


class ArtifactError(ResnetsError):
    """Raised for a missing or damaged artifact, or a file of another project."""


@dataclass(frozen=True)
class ArtifactMetadata:
    """The metadata stored inside an artifact.

    Attributes:
        kind: Runtime that executes it.
        precision: Precision of its computation.
        model: Name of the architecture.
        classes: Names of the outputs, in order.
        preprocess: Transforms before the graph and inside it.
        postprocess: Meaning of its logits.
        origin: Weights from which it was exported.
        recipe: Recipe of their run; None if unknown.
        floats: Layers of an int8 model that are not quantized (see `export/mixed_int8.py`).
        resizes: Whether an .onnx or .xml graph resizes and crops; graphs for TensorRT do not.
    """

    kind: ArtifactKind
    precision: Precision
    model: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    origin: str
    recipe: Recipe | None = None
    floats: tuple[str, ...] = ()
    postprocess: Postprocess = SOFTMAX
    resizes: bool = True

    @classmethod
    def from_model(
        cls,
        model: ImageClassifier,
        kind: ArtifactKind,
        precision: Precision,
        *,
        resizes: bool = True,
    ) -> ArtifactMetadata:
        """Return the metadata of an artifact exported from `model`."""
        spec = model.preprocess.spec
        return cls(
            kind,
            precision,
            model.spec.name,
            model.classes,
            spec,
            model.origin,
            model.recipe,
            postprocess=model.postprocess,
            resizes=resizes,
        )

    @property
    def task(self) -> str:
        """Task of its model, as in recipes."""
        return "classify" if self.recipe is None else self.recipe.task

    @property
    def preprocessor(self) -> Preprocessor:
        """The transforms for the decoder; normalization, mean image included, is in the graph."""
        return Preprocessor(replace(self.preprocess, mean_image=False))

    def to_json(self) -> str:
        """Serialize to JSON."""
        plain = asdict(self) | {
            "format": FORMAT,
            "preprocess": to_dict(self.preprocess),
            "postprocess": to_dict(self.postprocess),
            "recipe": None if self.recipe is None else to_dict(self.recipe),
        }
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str | None, path: Path) -> ArtifactMetadata:
        """Parse JSON; ArtifactError if `path` was not written by this package."""
        try:
            plain = with_current_names(parse_json(text or ""), "artifact")
            if plain.pop("format") != FORMAT:
                raise ValueError("unknown format version")
            recipe, where = plain.pop("recipe"), str(path)
            plain["classes"] = tuple(plain["classes"])
            plain["floats"] = tuple(plain.get("floats", ()))
            plain["preprocess"] = from_dict(Preprocess, plain["preprocess"], where)
            post = from_dict(Postprocess, plain.pop("postprocess", {}), where)
            post.check(len(plain["classes"]))
            plain["postprocess"] = post
            return cls(**plain, recipe=None if recipe is None else from_stored_dict(recipe, where))
        except Exception as error:  # JSON of any shape
            raise ArtifactError(
                f"{path}: has no metadata that this version of resnets can read"
                f" ({type(error).__name__}); create it with `resnets export`"
            ) from None


def artifact_kind(where: str | Path, backend: str = "auto") -> ArtifactKind | None:
    """Return the kind of an artifact by its suffix; None if `where` is something else.

    Raises ConfigError if `backend` is another one than that of the artifact.
    """
    kind = SUFFIXES.get(Path(where).suffix.lower())
    if kind is not None and backend not in ("auto", kind):
        raise ConfigError(f"{where}: is for {kind}, not {backend}")
    return kind


def check_artifact_options(path: Path, own: str, device: str, precision: str) -> None:
    """Raise ConfigError for a device or precision other than the artifact's `own`."""
    if device not in ("auto", "cpu"):
        raise ConfigError(f"--device {device}: {path.name} computes on the CPU; use the checkpoint")
    if precision not in ("auto", own):
        raise ConfigError(f"--precision {precision}: {path.name} computes in {own}; omit it")


def require_torch(what: str, backend: str, precision: str, remedy: str) -> None:
    """Raise ConfigError for another backend than torch, or for int8, which torch lacks.

    what: the model or device with which only torch computes.
    """
    if backend not in ("auto", "torch") or precision == "int8":
        raise ConfigError(f"{what}: computes with torch only, and not in int8; {remedy}")


def is_artifact(where: str | Path) -> bool:
    """Return whether the suffix is that of an artifact."""
    return artifact_kind(where) is not None


def artifact_files(path: Path) -> list[Path]:
    """Return all files of an artifact except its manifest."""
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]


def manifest_path(path: Path) -> Path:
    """Return the path of the manifest of an artifact."""
    return path.with_name(f"{path.name}.json")


def model_sha256(model: ImageClassifier) -> str:
    """Return the SHA-256 of all that affects outputs: weights, pre-, postprocessing, classes."""
    described: list[Any] = [
        _without_later_defaults(asdict(model.spec), ModelSpec()),
        _without_later_defaults(to_dict(model.preprocess.spec), Preprocess()),
        model.classes,
    ]
    if model.postprocess != SOFTMAX:
        described.append(to_dict(model.postprocess))
    hasher = hashlib.sha256(json.dumps(described).encode())
    image = model.preprocess.mean_and_scale(torch.device("cpu"))
    for name, tensor in [*model.state_dict().items(), *zip(("mean", "scale"), image, strict=True)]:
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.contiguous().view(torch.uint8).numpy() if tensor.ndim else b"")
    return hasher.hexdigest()


def _without_later_defaults(values: dict[str, Any], defaults: object) -> dict[str, Any]:
    """Remove newer fields that have their defaults, so that hashes of version 0.1 stay valid."""
    return {
        name: value
        for name, value in values.items()
        if name in FIRST_FIELDS or value != getattr(defaults, name)
    }


def check_artifact_files(path: Path) -> dict[str, Any] | None:
    """Check the files of an artifact against its manifest; return it, or None without one.

    Raises ArtifactError for a file that is missing or whose checksum differs.
    """
    for file in artifact_files(path):
        if not file.is_file():
            raise ArtifactError(f"{file}: no such file{suggest_path(file)}")
    source = manifest_path(path)
    if not source.is_file():
        return None
    try:
        manifest = read_json(source, "manifest", ArtifactError)
        sums = dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{source}: not the manifest of an artifact; export again") from None
    for file in artifact_files(path):
        if sums.get(file.name) not in (None, file_sha256(file)):
            raise ArtifactError(
                f"{file}: was modified after verification (see {source.name}); export again"
            )
    return manifest


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that write and execute artifacts."""
    installed = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed
