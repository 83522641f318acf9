"""Publish a model to a folder or the Hugging Face Hub, with a model card."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from resnets.config import ConfigError, to_toml
from resnets.config.aliases import read_json
from resnets.models import ImageClassifier
from resnets.report.render import render
from resnets.report.run import METRICS
from resnets.utils.files.local_paths import output_path
from resnets.weights.errors import WeightsError
from resnets.weights.folder import (
    published_name,
    torchvision_names,
    write_folder,
    write_new_folder,
)
from resnets.weights.load import DEFAULT_LOAD_OPTIONS, LoadOptions, load_classifier
from resnets.weights.name_maps.maps import build_name_map

Layout = Literal["timm", "transformers", "torchvision", "mmpretrain", "detectron2"]
CARD, RESULT, HUBCONF = "README.md", "result.json", "hubconf.py"
# hubconf.py, which torch.hub runs; this package does not.
HUB_TEXT = '''"""`torch.hub.load(FOLDER, "model", source="local")` (needs `pip install resnets`)."""

dependencies = ["resnets"]


def model():
    """The model, in eval mode, with `.preprocess` and `.classes`."""
    from pathlib import Path

    import resnets

    return resnets.load(Path(__file__).parent)
'''
SPLITS = ("test", "val")
CARD_METRICS = ("top1_error", "balanced_error", "top5_error", "mAP", "micro_f1", "macro_f1")
REMEDY = "measure again with `resnets evaluate`, or remove the file"
HUB = "hub:"


def push(
    where: str,
    to: str,
    *,
    license: str | None = None,
    private: bool = False,
    options: LoadOptions = DEFAULT_LOAD_OPTIONS,
    format: Layout = "timm",
) -> str:
    """Write the model of a run or checkpoint to the folder `to` or the repository "hub:ORG/NAME".

    config.json, model.safetensors, README.md (the model card) and hubconf.py are written, read back
    and compared before they are uploaded or moved in place. Returns the folder or URL.

    format: the library whose config and tensor names are written. "torchvision", "mmpretrain" and
    "detectron2" add model.pth, a state dict in the names of that library, to the files of "timm".

    Raises ConfigError for a folder that is not empty or an invalid name, WeightsError if the
    library has no such model or the Hub refuses.
    """
    _check_private(to, private)
    net = load_classifier(where, options)
    return publish(
        net, find_result(Path(where)), to, license=license, private=private, format=format
    )


def publish(
    net: ImageClassifier,
    result: dict[str, Any],
    to: str,
    *,
    license: str | None = None,
    private: bool = False,
    format: Layout = "timm",
    dtype: torch.dtype | None = None,
    notes: Sequence[str] = (),
    load_name: str | None = None,
) -> str:
    """Do what `push` does for a loaded model and the `result` of its run.

    dtype: of the stored weights of convolutions and linear layers; their values in `net` must be
    exact in that type. notes: paragraphs for the card. load_name: what the card passes to
    `resnets.load`; default `to`.
    """
    _check_private(to, private)
    remote = to.startswith(HUB)
    if remote and not re.fullmatch(r"[\w.-]+/[\w.-]+", to.removeprefix(HUB)):
        raise ConfigError(f"--to {to}: write it as hub:ORG/NAME")

    def write(folder: Path) -> None:
        config_format: Literal["timm", "transformers"] = "timm"
        if format == "transformers":
            config_format = "transformers"
        write_folder(net, folder, license, config_format, dtype)
        if format in ("torchvision", "mmpretrain", "detectron2"):
            _write_state_dict(net, folder / "model.pth", format)
        text = render_card(net, result, to, license, notes=notes, load_name=load_name)
        (folder / CARD).write_text(text, encoding="utf-8")
        (folder / HUBCONF).write_text(HUB_TEXT, encoding="utf-8")
        _check_folder(net, folder)

    if remote:
        with tempfile.TemporaryDirectory(prefix="push-") as temporary:
            write(Path(temporary))
            return _upload(Path(temporary), to.removeprefix(HUB), private)
    out = output_path(to, "--to")
    write_new_folder(out, write, f"--to {to}")
    return str(out)


def _write_state_dict(net: ImageClassifier, path: Path, format: str) -> None:
    """Write a state dict in the names of `format`; one of mmengine also has the classes."""
    state: dict[str, Any] = build_name_map(format, net).to_foreign(net.state_dict())
    if format == "mmpretrain":
        state = {"meta": {"dataset_meta": {"classes": list(net.classes)}}, "state_dict": state}
    torch.save(state, path)


def _check_private(to: str, private: bool) -> None:
    if private and not to.startswith(HUB):
        raise ConfigError("--private: is for a repository of the Hub, hub:ORG/NAME; omit it")


def find_result(where: Path) -> dict[str, Any]:
    """Return result.json of the run that `where` is or belongs to; empty if there is none."""
    for run in (where, where.parent.parent):
        if (run / RESULT).is_file():
            result = read_json(run / RESULT, "result", remedy=REMEDY)
            _check_metrics(result, run / RESULT)
            return result if where == run or result.get("checkpoint") == where.name else {}
    return {}


def _check_metrics(result: dict[str, Any], path: Path) -> None:
    """ConfigError if the metrics of a split are damaged or were edited."""
    limits = dict.fromkeys(CARD_METRICS, 100) | {"examples": 1 << 62}
    for split in (split for split in SPLITS if split in result):
        metrics = result[split]
        if (
            not isinstance(metrics, dict)
            or not metrics.keys() >= {"examples", "protocol"}
            or not metrics.keys() & {"top1_error", "mAP"}
            or not isinstance(metrics["protocol"], str)
            or not all(
                isinstance(metrics.get(name, 0), int | float) and 0 <= metrics.get(name, 0) <= limit
                for name, limit in limits.items()
            )
        ):
            raise ConfigError(f"{path}: {split}: are not the metrics of a split; {REMEDY}")


def render_card(
    net: ImageClassifier,
    result: dict[str, Any],
    to: str,
    license: str | None,
    *,
    notes: Sequence[str] = (),
    load_name: str | None = None,
) -> str:
    """Return README.md: notes, metrics, usage, preprocessing, recipe and license."""
    theirs = published_name(net.spec)
    preprocess = net.preprocess.spec
    name = to.removeprefix(HUB).rstrip("/").rpartition("/")[2]
    remote = to.startswith(HUB)
    results = [{"split": part, **result[part]} for part in SPLITS if part in result]
    return render(
        "card.md.j2",
        name=name,
        library="resnets" if theirs is None else "timm",
        net=net.spec.name,
        theirs=theirs,
        torchvision=theirs in torchvision_names(),
        vgg=net.spec.is_vgg,  # transformers lets timm read only timm's own tensor names
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        data=result.get("data") or (net.recipe.data.source if net.recipe is not None else ""),
        results=results,
        metrics={key: METRICS[key] for key in CARD_METRICS if any(key in row for row in results)},
        classes=net.classes,
        channels=net.spec.in_channels,
        seen=preprocess,
        plain=not preprocess.mean_image and preprocess.channel_order == "rgb",
        initial=net.recipe.weights if net.recipe is not None else None,
        origin=net.origin,
        toml=to_toml(net.recipe) if net.recipe is not None else "",
        notes=notes,
        load_name=load_name or (to if remote else name),
        timm_name=f"hf_hub:{to.removeprefix(HUB)}" if remote else f"local-dir:{name}",
        license=license,
    )


def _check_folder(net: ImageClassifier, folder: Path) -> None:
    """Raise WeightsError unless the model in `folder` gives bitwise equal logits."""
    loaded = load_classifier(folder, need="head")
    size = net.preprocess.spec.size
    image = torch.rand(1, net.spec.in_channels, size, size)
    with torch.inference_mode():
        if not torch.equal(net(image), loaded(image)) or loaded.classes != net.classes:
            raise WeightsError(
                "the written files give other outputs than the model; nothing pushed"
            )


def _upload(folder: Path, repository: str, private: bool) -> str:
    """Upload the folder to a repository of the Hub, with the login of huggingface_hub."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        url = api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # the HTTP client differs between major versions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{repository}: the Hub refused it ({reason}); log in with `hf auth login`, or "
            "push to a folder and upload that"
        ) from None
    return str(url)
