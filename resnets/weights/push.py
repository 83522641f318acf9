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
from resnets.weights.errors import WeightsError
from resnets.weights.folder import (
    into_new_folder,
    published_name,
    torchvision_names,
    write_folder,
)
from resnets.weights.load import NOTHING_SAID, LoadOptions, load, load_model
from resnets.weights.name_maps.maps import name_map

Layout = Literal["timm", "transformers", "torchvision", "mmpretrain", "detectron2"]
CARD, RESULT, HUBCONF = "README.md", "result.json", "hubconf.py"
# What torch.hub runs of the folder; nothing of resnets does.
HUB_TEXT = '''"""`torch.hub.load(FOLDER, "model", source="local")` (needs `pip install resnets`)."""

dependencies = ["resnets"]


def model():
    """The model, in eval mode, with `.preprocess` and `.classes`."""
    from pathlib import Path

    import resnets

    return resnets.load(Path(__file__).parent)
'''
SPLITS = ("test", "val")
REMEDY = "measure again with `resnets evaluate`, or remove the file"
HUB = "hub:"


def push(
    where: str,
    to: str,
    *,
    license: str | None = None,
    private: bool = False,
    options: LoadOptions = NOTHING_SAID,
    format: Layout = "timm",
) -> str:
    """Write the model of a run or checkpoint to the folder `to` or the repository "hub:ORG/NAME".

    config.json, model.safetensors, README.md (the model card) and hubconf.py are written, read back
    and compared before they are uploaded or moved in place. Returns their place.

    format: library whose config and tensor names are written. "torchvision", "mmpretrain" and
    "detectron2" add model.pth, a state dict in the names of that library, to the folder of "timm".

    Raises ConfigError for a folder that is not empty or an invalid name, WeightsError if the
    library has no such model or the Hub refuses.
    """
    net = load_model(where, options)
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
    place: str | None = None,
) -> str:
    """What `push` does, for a loaded model and the `result` of its run.

    dtype: in which weights of convolutions and linear layers are stored; their values in `net` must
    already be values of that type. notes: paragraphs for the card. place: what the card says to
    load; default `to`.
    """
    remote = to.startswith(HUB)
    if remote and not re.fullmatch(r"[\w.-]+/[\w.-]+", to.removeprefix(HUB)):
        raise ConfigError(f"--to {to}: write it as hub:ORG/NAME")

    def write(made: Path) -> None:
        names: Literal["timm", "transformers"] = "timm"
        if format == "transformers":
            names = "transformers"
        write_folder(net, made, license, names, dtype)
        if format in ("torchvision", "mmpretrain", "detectron2"):
            _write_state_dict(net, made / "model.pth", format)
        text = card(net, result, to, license, notes=notes, place=place)
        (made / CARD).write_text(text, encoding="utf-8")
        (made / HUBCONF).write_text(HUB_TEXT, encoding="utf-8")
        _compare(net, made)

    if remote:
        with tempfile.TemporaryDirectory(prefix="push-") as temporary:
            write(Path(temporary))
            return _upload(Path(temporary), to.removeprefix(HUB), private)
    out = Path(to).expanduser()
    into_new_folder(out, write, f"--to {to}")
    return str(out)


def _write_state_dict(net: ImageClassifier, path: Path, format: str) -> None:
    """A state dict as `format` names it; a checkpoint of mmengine has the classes beside it."""
    state: dict[str, Any] = name_map(format, net).to_foreign(net.state_dict())
    if format == "mmpretrain":
        state = {"meta": {"dataset_meta": {"classes": list(net.classes)}}, "state_dict": state}
    torch.save(state, path)


def find_result(where: Path) -> dict[str, Any]:
    """result.json of the run that `where` is or belongs to; empty if there is none."""
    for run in (where, where.parent.parent):
        if (run / RESULT).is_file():
            result = read_json(run / RESULT, "result", remedy=REMEDY)
            _check_metrics(result, run / RESULT)
            return result if where == run or result.get("checkpoint") == where.name else {}
    return {}


def _check_metrics(result: dict[str, Any], path: Path) -> None:
    """ConfigError if the metrics of a split are damaged or were edited."""
    limits = {"top1_error": 100, "top5_error": 100, "examples": 1 << 62}
    for split in (split for split in SPLITS if split in result):
        metrics = result[split]
        if (
            not isinstance(metrics, dict)
            or not metrics.keys() >= {"top1_error", "examples", "protocol"}
            or not isinstance(metrics["protocol"], str)
            or not all(
                isinstance(metrics.get(name, 0), int | float) and 0 <= metrics.get(name, 0) <= limit
                for name, limit in limits.items()
            )
        ):
            raise ConfigError(f"{path}: {split}: are not the metrics of a split; {REMEDY}")


def card(
    net: ImageClassifier,
    result: dict[str, Any],
    to: str,
    license: str | None,
    *,
    notes: Sequence[str] = (),
    place: str | None = None,
) -> str:
    """README.md: notes, metrics with their protocol, usage, preprocessing, recipe and license."""
    theirs = published_name(net.spec)
    seen = net.preprocess.spec
    name = to.removeprefix(HUB).rstrip("/").rpartition("/")[2]
    remote = to.startswith(HUB)
    return render(
        "card.md.j2",
        name=name,
        library="resnets" if theirs is None else "timm",
        net=net.spec.name,
        theirs=theirs,
        torchvision=theirs in torchvision_names(),
        vgg=net.spec.is_vgg,  # transformers has timm read its own names of tensors alone
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        data=result.get("data") or (net.recipe.data.source if net.recipe is not None else ""),
        results=[{"split": part, **result[part]} for part in SPLITS if part in result],
        classes=net.classes,
        channels=net.spec.in_channels,
        seen=seen,
        plain=not seen.mean_image and seen.channel_order == "rgb",
        initial=net.recipe.weights if net.recipe is not None else None,
        origin=net.origin,
        toml=to_toml(net.recipe) if net.recipe is not None else "",
        notes=notes,
        place=place or (to if remote else name),
        timm_place=f"hf_hub:{to.removeprefix(HUB)}" if remote else f"local-dir:{name}",
        license=license,
    )


def _compare(net: ImageClassifier, made: Path) -> None:
    """Raise WeightsError unless the folder gives bitwise equal logits."""
    again = load(made)
    size = net.preprocess.spec.size
    image = torch.rand(1, net.spec.in_channels, size, size)
    with torch.inference_mode():
        if not torch.equal(net(image), again(image)) or again.classes != net.classes:
            raise WeightsError(
                "the written files give other outputs than the model; nothing pushed"
            )


def _upload(made: Path, repository: str, private: bool) -> str:
    """Upload the folder to a repository of the Hub, with the login of huggingface_hub."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=made)
    except Exception as error:  # the HTTP client differs between major versions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{repository}: the Hub refused it ({reason}); log in with `hf auth login`, or "
            "push to a folder and upload that"
        ) from None
    return str(done)
