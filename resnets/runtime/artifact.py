"""Artifacts: files that a runtime computes, with what is known of them inside and a card beside.

| suffix | runtime | files |
|---|---|---|
| .onnx | ONNX Runtime | one |
| .xml | OpenVINO | .xml and .bin of one name |
| .pt2 | torch (`torch.export`) | one |

Each carries `ArtifactMetadata` as JSON in its own metadata, under the name "resnets". The card,
<artifact>.json, holds the evidence of `export/verify.py` and the files' SHA-256; a file that is no
longer what was proved is not opened.
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

from resnets.config import ConfigError, Preprocess, Recipe, from_dict, stored_recipe, to_dict
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import Net

Kind = Literal["onnx", "openvino", "torch"]
Precision = Literal["float32", "bfloat16", "int8"]
SUFFIXES: dict[str, Kind] = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}
FORMAT = 1
KEY = "resnets"
PACKAGES = ("resnets", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")


class ArtifactError(ValueError):
    """An artifact that is missing, damaged or not of this project; the message names the file."""


@dataclass(frozen=True)
class ArtifactMetadata:
    """What an artifact says of itself.

    kind, precision: who computes it and how. net: the architecture's name. classes: of the outputs,
    in order. preprocess: what was done to pictures before they came, and what the graph does.
    origin: the weights it was made of. recipe: of their run, None where it is not known.
    floats: names of the layers of an int8 net that are not quantised (`export/mixed_precision.py`).
    """

    kind: Kind
    precision: Precision
    net: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    origin: str
    recipe: Recipe | None = None
    floats: tuple[str, ...] = ()

    @classmethod
    def of(cls, net: Net, kind: Kind, precision: Precision) -> ArtifactMetadata:
        """Those of an artifact of `net`."""
        spec = net.preprocess.spec
        return cls(kind, precision, net.spec.name, net.classes, spec, net.origin, net.recipe)

    @property
    def preprocessor(self) -> Preprocessor:
        """For the decoder: its views. Normalising, mean image included, is the graph's part."""
        return Preprocessor(replace(self.preprocess, mean_image=False))

    def to_text(self) -> str:
        """As JSON."""
        plain = asdict(self) | {
            "format": FORMAT,
            "preprocess": to_dict(self.preprocess),
            "recipe": None if self.recipe is None else to_dict(self.recipe),
        }
        return json.dumps(plain)

    @classmethod
    def from_text(cls, text: str | None, path: Path) -> ArtifactMetadata:
        """From JSON; ArtifactError where `path` holds none of ours."""
        try:
            plain: dict[str, Any] = json.loads(text or "")
            if plain.pop("format") != FORMAT:
                raise ValueError("another format")
            recipe, where = plain.pop("recipe"), str(path)
            plain["classes"] = tuple(plain["classes"])
            plain["floats"] = tuple(plain.get("floats", ()))
            plain["preprocess"] = from_dict(Preprocess, plain["preprocess"], where)
            return cls(**plain, recipe=None if recipe is None else stored_recipe(recipe, where))
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path}: carries no description that this version of resnets can read"
                f" ({type(error).__name__}); make it with `resnets export`"
            ) from None


def is_artifact(where: str | Path) -> bool:
    """Whether this names an artifact (by its suffix), not a run, checkpoint or published net."""
    return Path(where).suffix.lower() in SUFFIXES


def files_of(path: Path) -> list[Path]:
    """All files of an artifact but its card."""
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]


def card_of(path: Path) -> Path:
    """The card beside an artifact."""
    return path.with_name(f"{path.name}.json")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_net(net: Net) -> str:
    """SHA-256 of what a net computes: its weights, preprocessing and classes."""
    found = hashlib.sha256(
        json.dumps([asdict(net.spec), to_dict(net.preprocess.spec), net.classes]).encode()
    )
    image = net.preprocess.mean_and_scale(torch.device("cpu"))
    for name, tensor in [*net.state_dict().items(), *zip(("mean", "scale"), image, strict=True)]:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy() if tensor.ndim else b"")
    return found.hexdigest()


def check_files(path: Path) -> dict[str, Any] | None:
    """The card of an artifact whose files are those it speaks of; None where there is no card.

    ArtifactError names a file that is missing or differs.
    """
    for file in files_of(path):
        if not file.is_file():
            raise ArtifactError(f"{file}: no such file")
    card = card_of(path)
    if not card.is_file():
        return None
    try:
        told: dict[str, Any] = json.loads(card.read_text("utf-8"))
        sums = dict(told["sha256"])
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{card}: not the card of an artifact; export again") from None
    for file in files_of(path):
        if sums.get(file.name) not in (None, digest(file)):
            raise ArtifactError(
                f"{file}: differs from the file that was proved (see {card.name}); export again"
            )
    return told


def versions() -> dict[str, str]:
    """Of the packages that make and compute artifacts, those that are installed here."""
    found = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def need(package: str, what: str) -> None:
    """Raise ConfigError naming what to install where `package` is not importable."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}; pip install 'resnets[deploy]'")
