"""A trained net put where others find it: a folder or the Hub, with its model card."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch

from resnets.config import ConfigError, to_toml
from resnets.config.aliases import read_json
from resnets.models import ImageClassifier
from resnets.report.page import render
from resnets.weights.errors import WeightsError
from resnets.weights.folder import into_new_folder, published_name, write_folder
from resnets.weights.load import NOTHING_SAID, LoadOptions, load, load_model
from resnets.weights.name_maps.maps import name_map

CARD, RESULT = "README.md", "result.json"
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
    format: Literal["timm", "transformers", "mmpretrain"] = "timm",
) -> str:
    """Put the net of a run or checkpoint into the folder `to` or the repository "hub:ORG/NAME".

    config.json, model.safetensors and README.md (the card) are written, read back and compared
    before anything leaves or takes its place. Returns where they are. format: whose config and
    tensor names; with "mmpretrain", model.pth is written beside them, for that library's
    `load_checkpoint`. Raises ConfigError for a folder with something in it or a name that is none,
    WeightsError where the Hub refuses.
    """
    net = load_model(where, options)
    remote = to.startswith(HUB)
    if remote and not re.fullmatch(r"[\w.-]+/[\w.-]+", to.removeprefix(HUB)):
        raise ConfigError(f"--to {to}: write it as hub:ORG/NAME")
    result = find_result(Path(where))

    def write(made: Path) -> None:
        write_folder(net, made, license, "transformers" if format == "transformers" else "timm")
        if format == "mmpretrain":
            _write_mmpretrain(net, made / "model.pth")
        (made / CARD).write_text(card(net, result, to, license), encoding="utf-8")
        _compare(net, made)

    if remote:
        with tempfile.TemporaryDirectory(prefix="push-") as temporary:
            write(Path(temporary))
            return _upload(Path(temporary), to.removeprefix(HUB), private)
    out = Path(to).expanduser()
    into_new_folder(out, write, f"--to {to}")
    return str(out)


def _write_mmpretrain(net: ImageClassifier, path: Path) -> None:
    """A checkpoint as mmengine has it, with the names of the classes."""
    meta = {"dataset_meta": {"classes": list(net.classes)}}
    state = name_map("mmpretrain", net).to_foreign(net.state_dict())
    torch.save({"meta": meta, "state_dict": state}, path)


def find_result(where: Path) -> dict[str, Any]:
    """result.json of the run `where` is or lies in; empty where there is none."""
    for run in (where, where.parent.parent):
        if (run / RESULT).is_file():
            result = _checked(read_json(run / RESULT, "result", remedy=REMEDY), run / RESULT)
            return result if where == run or result.get("checkpoint") == where.name else {}
    return {}


def _checked(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """A result whose figures a card can show; ConfigError for one that was damaged or edited."""
    for part in (part for part in SPLITS if part in result):
        figures = result[part]
        known = isinstance(figures, dict) and figures.keys() >= {"top1_error", "examples"}
        if not known or not all(
            isinstance(figures.get(name, 0), int | float) and math.isfinite(figures.get(name, 0))
            for name in ("top1_error", "top5_error", "examples")
        ):
            raise ConfigError(f"{path}: {part}: is not the figures of a split; {REMEDY}")
    return result


def card(net: ImageClassifier, result: dict[str, Any], to: str, license: str | None) -> str:
    """README.md: figures with their protocol, use, preprocessing, recipe and licence."""
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
        place=to if remote else name,
        timm_place=f"hf_hub:{to.removeprefix(HUB)}" if remote else f"local-dir:{name}",
        license=license,
    )


def _compare(net: ImageClassifier, made: Path) -> None:
    """WeightsError unless the folder gives the same logits, bit for bit."""
    again = load(made)
    size = net.preprocess.spec.size
    picture = torch.rand(1, net.spec.in_channels, size, size)
    with torch.inference_mode():
        if not torch.equal(net(picture), again(picture)) or again.classes != net.classes:
            raise WeightsError("what was written gives other outputs than the net; nothing pushed")


def _upload(made: Path, repository: str, private: bool) -> str:
    """The folder as a repository of the Hub, under the login that huggingface_hub has."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=made)
    except Exception as error:  # from an HTTP client that is another in each major version
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{repository}: the Hub did not take it ({reason}); log in with `hf auth login`, or "
            "push to a folder and upload that"
        ) from None
    return str(done)
