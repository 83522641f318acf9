"""Numbers of a recipe outside of their range are refused when it is made, with their path."""

from typing import get_type_hints

import pytest

import resnets
from resnets.config import ConfigError, Recipe, iter_fields, replace_fields
from resnets.recipes import RECIPES

# Fields for which a negative number means something.
SIGNED = {
    *("seed", "data.split_seed", "model.gate_bias", "model.shortcut_scale", "model.branch_scale"),
    "model.logit_scale",
}
# Refused where the model is built, by what its parts allow.
BY_MODEL = {"model.dilate", "detect.pyramid_from"}


def numbers() -> list[str]:
    """Paths of all fields that are a number."""
    recipe = RECIPES["scratch"]()
    found = []
    for path, value in iter_fields(recipe):
        owner: object = recipe
        *parents, leaf = path.split(".")
        for name in parents:
            owner = getattr(owner, name)
        kind = str(get_type_hints(type(owner))[leaf])
        if not isinstance(value, bool | tuple) and ("int" in kind or "float" in kind):
            found.append(path)
    return found


@pytest.mark.parametrize("path", sorted({*numbers()} - SIGNED - BY_MODEL))
def test_no_number_is_negative(path: str) -> None:
    with pytest.raises(ConfigError, match=path.rpartition(".")[2]):
        replace_fields(RECIPES["scratch"](), {path: -1})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ema_decay", 1),
        ("eval.batch_size", 0),
        ("optim.momentum", 1),
        ("optim.clip_norm", 0),
        ("optim.betas", [0.9, 1.0]),
        ("schedule.warmup", 1.5),
        ("schedule.milestones", [0.5, 2]),
        ("schedule.hold_until_error", 101),
        ("data.size", 0),
        ("data.shuffle_buffer", 0),
        ("data.augment.grayscale", 1.5),
        ("detect.proposals", [2000, 0]),
        ("detect.anchor_ratios", [0.0]),
    ],
)
def test_limits(path: str, value: object) -> None:
    with pytest.raises(ConfigError, match=path):
        replace_fields(RECIPES["detect"](), {path: value})


def test_specs_made_in_python_are_checked() -> None:
    spec = type(Recipe().optim)
    with pytest.raises(ConfigError, match=r"optim\.clip_norm"):
        spec(clip_norm=-1.0)
    with pytest.raises(ConfigError, match=r"optim\.lr: '0\.1'"):
        spec(lr="0.1")
    assert spec(betas=[0.9, 0.99])
    with pytest.raises(ConfigError, match=r"optim\.betas"):
        spec(betas=[0.9, 1.0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_options_of_commands_are_checked(value: float, tmp_path) -> None:
    from resnets.cli.serve import command as serve

    with pytest.raises(ConfigError, match="hang.after"):
        resnets.train("digits", epochs=1, out=tmp_path / "run", hang_after=value)
    with pytest.raises(ConfigError, match="max.upload.mb"):
        serve(("digits",), max_upload_mb=value)
    with pytest.raises(ConfigError, match="max.megapixels"):
        serve(("digits",), max_megapixels=value)
