"""Published weights by name: ours, torchvision's, timm's, any repository of the Hugging Face Hub.

Files are downloaded once and cached. Without a network, the error names the file to download
elsewhere and where to put it. Our own files are checked against the SHA-256 in the index of the
zoo, files of torchvision against its start in their name, those of the Hub against the hash in its
cache.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnets.config import ConfigError, ModelSpec, Preprocess
from resnets.data.sources.builtin import find_connection_error
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import catalog
from resnets.utils import environment
from resnets.weights import zoo
from resnets.weights.check_values import require_same_model
from resnets.weights.errors import WeightsError
from resnets.weights.folder import (
    CONFIG,
    MEAN,
    MODEL,
    PROCESSOR,
    is_transformers,
    read_config,
    torchvision_names,
)
from resnets.weights.heads import imagenet_classes
from resnets.weights.read import Weights, read_folder, read_path
from resnets.weights.readers.configs.timm import catalog_name
from resnets.weights.readers.configs.timm_tags import TIMM
from resnets.weights.readers.unsupported_file import ADAPTER, adapter_error

IMAGENET = 1000  # classes


def is_library(source: str) -> bool:
    """Whether `source` names published weights and is not a path."""
    return source.partition(":")[0] in LIBRARIES and ":" in source


def read_library(source: str, spec: ModelSpec | None = None) -> Weights:
    """Published weights `LIBRARY:NAME`, for the model `spec` if given.

    "resnets:DATA/NET", "torchvision:TAG" or "torchvision:NET.TAG", "timm:NET.TAG",
    "hub:ORG/NAME[@REVISION]" (or "hf:"). Raises ConfigError for an unknown name, with the nearest
    one, or one of another model; WeightsError if they cannot be downloaded or are damaged.
    """
    library, _, name = source.partition(":")
    return LIBRARIES[library](name, spec)


def _zoo(name: str, spec: ModelSpec | None) -> Weights:
    """A model of this project's zoo, DATA/NET; the files of the package are verified, too."""
    source, known = f"resnets:{name}", zoo.entries()
    if name not in known:
        hint = _nearest(name, known) or f"; known: {', '.join(known)}"
        raise ConfigError(f"weights: {source}: no such model{hint}")
    entry = known[name]
    folder = entry.folder if entry.url is None else environment.cache_folder() / "zoo" / name
    for file, digest in entry.sha256.items():
        if entry.url is not None:
            _download(f"{entry.url}/{file}", folder / file, digest)
        remedy = f"delete it and download {entry.url}/{file} again"
        if entry.url is None:
            remedy = "install resnets again"
        _verify(folder / file, digest, remedy)
    found = read_folder(folder, source)
    if spec is not None and found.spec is not None:
        require_same_model(source, found.spec, spec)
    return found


def _torchvision(name: str, spec: ModelSpec | None) -> Weights:
    """torchvision's published weights; `name` may omit the model if `spec` is given."""
    from torchvision import models

    source = f"torchvision:{name}"
    net, dot, tag = name.rpartition(".")
    if not dot:
        if spec is None:
            raise ConfigError(f"weights: {source}: name the model, as torchvision:resnet50.{tag}")
        net = spec.name.replace("-", "_")
    listed = torchvision_names()
    shared = [known for known in map(_theirs, catalog.names()) if known in listed]
    if net not in shared:
        given = net if dot or spec is None else spec.name
        raise ConfigError(f"weights: torchvision has none for {given}{_nearest(net, shared)}")
    published = _matching(source, net, spec)
    choices = models.get_model_weights(net)
    if tag not in choices.__members__:
        known = ", ".join(choices.__members__)
        hint = _nearest(tag, choices.__members__)
        raise ConfigError(f"weights: torchvision has no {tag!r} for {net}; known: {known}{hint}")
    entry = choices[tag]
    found = read_path(str(torchvision_file(entry.url)))
    return replace(
        found,
        source=source,
        preprocess=_from_transforms(entry.transforms()),
        classes=tuple(entry.meta["categories"]),
        spec=published,
    )


def _from_transforms(seen: Any) -> Preprocessor:
    """A torchvision `ImageClassification` preset as ours."""
    return Preprocessor(
        Preprocess(
            size=seen.crop_size[0],
            resize=seen.resize_size[0],
            mean=tuple(seen.mean),
            std=tuple(seen.std),
            interpolation=seen.interpolation.value,
        )
    )


def torchvision_file(url: str) -> Path:
    """torch's own cached file for `url`, fetched if need be; its hash starts with its name's."""
    name = url.rsplit("/", 1)[-1]
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    promised = re.search(r"-([0-9a-f]{8,})\.", name)
    assert promised, f"{name}: torchvision names files after their hash"
    _download(url, file, promised[1])
    _verify(file, promised[1], f"delete it and download {url} again")
    return file


def _download(url: str, file: Path, promised: str) -> None:
    """Fetch `file` from `url` if it is not there; `promised` is the start of its SHA-256."""
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(file), promised, progress=False)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise WeightsError(
            f"cannot download {url} ({reason}); download it elsewhere and put it at {file}"
        ) from None
    except RuntimeError as error:
        raise WeightsError(f"{url}: the download is not that file ({error}); try again") from None


def _verify(file: Path, promised: str, remedy: str) -> None:
    """WeightsError with the `remedy` unless the SHA-256 of `file` starts with `promised`."""
    try:
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise WeightsError(f"{file}: is missing; {remedy}") from None
    if not digest.startswith(promised):
        raise WeightsError(
            f"{file}: damaged or another file (its SHA-256 starts with {digest[: len(promised)]}, "
            f"not {promised}); {remedy}"
        )


def _timm(name: str, spec: ModelSpec | None) -> Weights:
    """timm's published weights NET.TAG, from its repositories on the Hub; timm is not needed."""
    source = f"timm:{name}"
    net, _, tag = name.partition(".")
    if net not in TIMM:
        raise ConfigError(f"weights: timm has none for {net!r} here{_nearest(net, TIMM)}")
    if tag not in TIMM[net]:
        hint = _nearest(tag, TIMM[net]) or f"; known: {', '.join(TIMM[net])}"
        raise ConfigError(
            f"weights: timm has no {tag!r} for {net}{hint} (newer ones: hub:timm/{name})"
        )
    published = _matching(source, net, spec)
    found = replace(_hub(f"timm/{name}", None), source=source)
    said = found.spec or replace(published, num_classes=IMAGENET)
    thousand = said.num_classes == IMAGENET
    classes = found.classes or (imagenet_classes() if thousand else ())
    return replace(found, classes=classes, spec=said)


def _matching(source: str, net: str, spec: ModelSpec | None) -> ModelSpec:
    """Our spec of `net`; ConfigError where `spec`, which takes its weights, computes otherwise."""
    name = catalog_name(net)
    assert name is not None
    published = catalog.spec(name)
    if spec is not None:
        require_same_model(source, published, spec)
    return published


def _hub(name: str, spec: ModelSpec | None) -> Weights:
    """A repository ORG/NAME[@REVISION] with model.safetensors, and config.json if it has one."""
    source = f"hub:{name}"
    repository, _, revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ConfigError(f"weights: {source}: write it as hub:ORG/NAME or hub:ORG/NAME@REVISION")
    folder = environment.cache_folder() / "hub" / repository
    if not (folder / MODEL).is_file():
        folder = _fetch(source, repository, revision or "main", folder)
    if (folder / CONFIG).is_file():
        return read_folder(folder, source)
    return replace(read_path(str(folder / MODEL)), source=source)


def _fetch(source: str, repository: str, revision: str, by_hand: Path) -> Path:
    """The Hub's cached copy of a repository's files: fetched if there is none, or a newer one.

    Its client would try for half a minute before it falls back to the cache; we ask once.
    """
    from huggingface_hub import constants, hf_hub_download, utils

    url = f"{constants.ENDPOINT}/{repository}/resolve/{revision}"
    away = "offline mode" if constants.HF_HUB_OFFLINE else find_connection_error(constants.ENDPOINT)

    def get(file: str) -> Path:
        offline = away is not None
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
            described = read_config(config.parent)
            if described.preprocess is not None and described.preprocess.mean_image:
                get(MEAN)
    except utils.LocalEntryNotFoundError as error:
        reason = away or _first_line(error.__cause__ or error)
        raise WeightsError(
            f"cannot download {url}/{MODEL} ({reason}); download it and its {CONFIG}"
            f" elsewhere, and put both into {by_hand}"
        ) from None
    except utils.EntryNotFoundError:
        raise WeightsError(f"weights: {source}: has no {MODEL}; other files are not read") from None
    except (utils.RepositoryNotFoundError, utils.RevisionNotFoundError):
        raise ConfigError(
            f"weights: {source}: no such repository or revision at {constants.ENDPOINT}, or one "
            "that needs a login (`hf auth login`)"
        ) from None
    except OSError as error:
        raise WeightsError(f"cannot download {url}/{MODEL} ({_first_line(error)})") from None
    hashed = model.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", hashed):
        _verify(model.resolve(), hashed, f"delete it and download {url}/{MODEL} again")
    return model.parent


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _theirs(name: str) -> str:
    return name.replace("-", "_")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


LIBRARIES: Mapping[str, Callable[[str, ModelSpec | None], Weights]] = {
    "resnets": _zoo,
    "torchvision": _torchvision,
    "timm": _timm,
    "hub": _hub,
    "hf": _hub,
}
