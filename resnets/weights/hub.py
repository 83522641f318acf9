"""Published weights by name: of this project, torchvision, timm, and the Hugging Face Hub.

Files are downloaded once and cached. Without a network, the error names the file to download
elsewhere and where to put it. Files of the zoo are checked against the SHA-256 in its index, files
of torchvision against the start of the SHA-256 in their name, those of the Hub against the hash in
its cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnets.config import ConfigError, ModelSpec, Preprocess
from resnets.data.sources.builtin import find_connection_error
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import catalog
from resnets.utils.machine import environment
from resnets.utils.suggest import find_similar, suggest
from resnets.weights import zoo
from resnets.weights.check_values import check_same_model
from resnets.weights.errors import DownloadError, WeightsError
from resnets.weights.folder import (
    CONFIG,
    MEAN,
    MODEL,
    is_transformers,
    read_config,
    torchvision_names,
)
from resnets.weights.heads import NUM_IMAGENET_CLASSES, imagenet_classes
from resnets.weights.read import Weights, read_folder, read_path
from resnets.weights.readers.configs.timm import TIMM_TAGS, catalog_name
from resnets.weights.readers.configs.transformers import PROCESSOR
from resnets.weights.readers.unsupported_file import ADAPTER, adapter_error


def is_library(source: str) -> bool:
    """Return whether `source` names published weights and is not a path."""
    return source.partition(":")[0] in LIBRARIES and ":" in source


def read_library(source: str, spec: ModelSpec | None = None) -> Weights:
    """Read published weights `LIBRARY:NAME`, for the model `spec` if given.

    "resnets:DATA/NET", "torchvision:TAG" or "torchvision:NET.TAG", "timm:NET.TAG",
    "hub:ORG/NAME[@REVISION]" (or "hf:"). Raises ConfigError for an unknown name, with the nearest
    one, or for another model; WeightsError if they cannot be downloaded or are damaged.
    """
    library, _, name = source.partition(":")
    return LIBRARIES[library](name, spec)


def _read_zoo(name: str, spec: ModelSpec | None) -> Weights:
    """Read a model of this project's zoo, DATA/NET; files of the package are verified, too."""
    source, entries = f"resnets:{name}", zoo.read_index()
    if name not in entries:
        known = [f"resnets:{entry}" for entry in entries]
        hint = suggest(source, known)
        if "," in name:
            hint += "; a comma is not part of a name: give one name, or separate names by spaces"
        raise ConfigError(f"weights: {source}: no such model; {hint}")
    entry = entries[name]
    folder = entry.folder if entry.url is None else environment.cache_folder() / "zoo" / name
    for file, digest in entry.sha256.items():
        if entry.url is not None:
            _download(f"{entry.url}/{file}", folder / file, digest)
        remedy = f"delete it and download {entry.url}/{file} again"
        if entry.url is None:
            remedy = "install resnets again"
        _verify(folder / file, digest, remedy)
    weights = read_folder(folder, source)
    if spec is not None and weights.spec is not None:
        check_same_model(source, weights.spec, spec)
    return weights


def _read_torchvision(name: str, spec: ModelSpec | None) -> Weights:
    """Read published weights of torchvision; `name` may omit the model if `spec` is given."""
    from torchvision import models

    source = f"torchvision:{name}"
    net, dot, tag = name.rpartition(".")
    if not dot:
        if spec is None:
            raise ConfigError(f"weights: {source}: name the model, as torchvision:resnet50.{tag}")
        net = spec.name.replace("-", "_")
    available = {name.replace("-", "_") for name in catalog.list_models()} & torchvision_names()
    if net not in available:
        model = net if dot or spec is None else spec.name
        hint = suggest(net, available, "its models: docs/weights.md")
        raise ConfigError(f"weights: torchvision has none for {model}; {hint}")
    published = _published_spec(source, net, spec)
    choices = models.get_model_weights(net)
    if tag not in choices.__members__:
        hint = suggest(tag, choices.__members__)
        raise ConfigError(f"weights: torchvision has no {tag!r} for {net}; {hint}")
    entry = choices[tag]
    if entry.meta["categories"] is None:
        raise ConfigError(
            f"weights: {source}: its fully connected layers have no weights; use "
            f"{choices.DEFAULT.name}"
        )
    return replace(
        read_path(str(torchvision_file(entry.url))),
        source=source,
        preprocess=_from_transforms(entry.transforms()),
        classes=tuple(entry.meta["categories"]),
        spec=published,
    )


def _from_transforms(preset: Any) -> Preprocessor:
    """Convert a torchvision `ImageClassification` preset."""
    return Preprocessor(
        Preprocess(
            size=preset.crop_size[0],
            resize=preset.resize_size[0],
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            interpolation=preset.interpolation.value,
        )
    )


def torchvision_file(url: str) -> Path:
    """Return the file of `url` in torch's cache, downloaded if missing; its hash is verified."""
    name = url.rsplit("/", 1)[-1]
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    match = re.search(r"-([0-9a-f]{8,})\.", name)
    assert match, f"{name}: torchvision names files after their hash"
    _download(url, file, match[1])
    _verify(file, match[1], f"delete it and download {url} again")
    return file


def _download(url: str, file: Path, sha256: str) -> None:
    """Download `file` from `url` if it does not exist. sha256: the start of its SHA-256."""
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(file), sha256, progress=False)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise DownloadError(
            f"cannot download {url} ({reason}); download it elsewhere and put it at {file}"
        ) from None
    except RuntimeError as error:
        raise WeightsError(f"{url}: the download is another file ({error}); try again") from None


def _verify(file: Path, sha256: str, remedy: str) -> None:
    """Raise WeightsError, with the `remedy`, unless the SHA-256 of `file` starts with `sha256`."""
    try:
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise WeightsError(f"{file}: is missing; {remedy}") from None
    if not digest.startswith(sha256):
        raise WeightsError(
            f"{file}: damaged or another file (its SHA-256 starts with {digest[: len(sha256)]}, "
            f"not {sha256}); {remedy}"
        )


def _read_timm(name: str, spec: ModelSpec | None) -> Weights:
    """Read published weights of timm, NET.TAG, from the Hub; timm need not be installed."""
    source = f"timm:{name}"
    net, _, tag = name.partition(".")
    if net not in TIMM_TAGS:
        hint = suggest(net, TIMM_TAGS, "its models: docs/weights.md")
        raise ConfigError(f"weights: timm has none for {net!r} here; {hint}")
    if tag not in TIMM_TAGS[net]:
        hint = suggest(tag, TIMM_TAGS[net])
        raise ConfigError(
            f"weights: timm has no {tag!r} for {net}; {hint} (newer ones: hub:timm/{name})"
        )
    published = _published_spec(source, net, spec)
    weights = replace(_read_hub(f"timm/{name}", None), source=source)
    actual = weights.spec or replace(published, num_classes=NUM_IMAGENET_CLASSES)
    classes = weights.classes
    if not classes and actual.num_classes == NUM_IMAGENET_CLASSES:
        classes = imagenet_classes()
    return replace(weights, classes=classes, spec=actual)


def _published_spec(source: str, net: str, spec: ModelSpec | None) -> ModelSpec:
    """Return the spec of `net`; ConfigError if `spec`, which gets its weights, differs."""
    name = catalog_name(net)
    assert name is not None
    published = catalog.spec(name)
    if spec is not None:
        check_same_model(source, published, spec)
    return published


def _read_hub(name: str, spec: ModelSpec | None) -> Weights:
    """Read a repository ORG/NAME[@REVISION]: model.safetensors, and config.json if it has one."""
    source = f"hub:{name}"
    repository, _, revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ConfigError(f"weights: {source}: write it as hub:ORG/NAME or hub:ORG/NAME@REVISION")
    folder = environment.cache_folder() / "hub" / repository
    if not (folder / MODEL).is_file():
        folder = _fetch_repository(source, repository, revision or "main", folder)
    if (folder / CONFIG).is_file():
        return read_folder(folder, source)
    return replace(read_path(str(folder / MODEL)), source=source)


def _fetch_repository(source: str, repository: str, revision: str, manual: Path) -> Path:
    """Return the Hub's cached copy of a repository, downloaded if missing or outdated.

    The Hub's client would retry for half a minute before it uses the cache; here it asks once.
    manual: folder for files that the user downloads, for messages.
    """
    from huggingface_hub import constants, hf_hub_download, utils

    url = f"{constants.ENDPOINT}/{repository}/resolve/{revision}"
    offline_reason = (
        "offline mode" if constants.HF_HUB_OFFLINE else find_connection_error(constants.ENDPOINT)
    )

    def get(file: str) -> Path:
        offline = offline_reason is not None
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=offline))

    try:
        model = get(MODEL)
        with contextlib.suppress(utils.EntryNotFoundError, utils.RepositoryNotFoundError):
            get(ADAPTER)
            raise adapter_error(source)
        with contextlib.suppress(utils.EntryNotFoundError):
            config = get(CONFIG)
            if is_transformers(config):
                with contextlib.suppress(utils.EntryNotFoundError):
                    get(PROCESSOR)
            preprocess = read_config(config.parent).preprocess
            if preprocess is not None and preprocess.mean_image:
                get(MEAN)
    except utils.LocalEntryNotFoundError as error:
        reason = offline_reason or _first_line(error.__cause__ or error)
        raise DownloadError(
            f"cannot download {url}/{MODEL} ({reason}); download it and its {CONFIG}"
            f" elsewhere, and put both into {manual}"
        ) from None
    except utils.EntryNotFoundError:
        raise WeightsError(f"weights: {source}: has no {MODEL}; other files are not read") from None
    except (utils.RepositoryNotFoundError, utils.RevisionNotFoundError):
        raise ConfigError(
            f"weights: {source}: no such repository or revision at {constants.ENDPOINT}, or one "
            "that needs a login (`hf auth login`)"
        ) from None
    except OSError as error:
        raise DownloadError(f"cannot download {url}/{MODEL} ({_first_line(error)})") from None
    sha256 = model.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", sha256):
        _verify(model.resolve(), sha256, f"delete it and download {url}/{MODEL} again")
    return model.parent


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def suggest_weights(source: str, spec: ModelSpec) -> str:
    """Return a hint if `source`, which is not a file, looks like a name of published weights."""
    library, colon, name = source.partition(":")
    similar = find_similar(library, LIBRARIES)
    if colon and similar and not name.startswith("//"):
        return f"; neither a file nor a library; did you mean {similar}:{name}?"
    tag = source.rpartition("_Weights.")[2]  # torchvision's enumerations
    if tag.upper() == "DEFAULT" or re.fullmatch(r"IMAGENET1K_\w+", tag.upper()):
        return f"; did you mean torchvision:{tag.upper()}?"
    if source.lower() in ("imagenet", "imagenet1k", "pretrained", "true"):
        return "; did you mean torchvision:DEFAULT?"
    net = spec.name.replace("-", "_")
    for given in (source, f"{net}.{source}"):
        if given.partition(".")[2] in TIMM_TAGS.get(given.partition(".")[0], ()):
            return f"; did you mean timm:{given}?"
    if re.fullmatch(r"[\w-]+/[\w.-]+", source):
        return f"; did you mean hub:{source}?"
    return ""


def suggest_published(spec: ModelSpec) -> str:
    """Return how to ask `create_model` for published weights of `spec`, or that there are none."""
    net = spec.name.replace("-", "_")
    names = [f"resnets:{name}" for name in zoo.read_index() if name.endswith(f"/{spec.name}")]
    if net in torchvision_names():
        names.append("torchvision:DEFAULT")
    elif net in TIMM_TAGS:
        names.append(f"timm:{net}.{TIMM_TAGS[net][0]}")
    if not names:
        return f"no weights are published for {spec.name}; `weights` takes a file or a run"
    return f"write {' or '.join(f'weights={name!r}' for name in names)}; others: docs/weights.md"


LIBRARIES: Mapping[str, Callable[[str, ModelSpec | None], Weights]] = {
    "resnets": _read_zoo,
    "torchvision": _read_torchvision,
    "timm": _read_timm,
    "hub": _read_hub,
    "hf": _read_hub,
}
