"""Every recipe documents its result, is complete and trains; published figures are kept."""

import dataclasses
import itertools
import json
import shutil
import tarfile

import pytest

from resnets.cli.main import main
from resnets.config import ConfigError, from_toml, to_toml
from resnets.config.recipe import Recipe
from resnets.data.transforms.preprocess import size_at
from resnets.recipes import RECIPES, recipe
from resnets.train.log.run_log import read_rows
from resnets.train.optim.schedule import Schedule

IMAGENET = [name for name in RECIPES if name.startswith("imagenet-")]
IMAGES = 1_281_167


@pytest.mark.parametrize("name", RECIPES)
def test_docstring_states_command_cost_and_score(name):
    words = " ".join((RECIPES[name].__doc__ or "").split())
    assert f"Command: resnets train {name}" in words
    assert "Hardware and time:" in words
    assert "Expected" in words
    assert "eached here" in words or "Not run here" in words


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_named_after_itself_and_survives_toml(name, tmp_path):
    made = recipe(name)
    assert made.name == name
    (tmp_path / "recipe.toml").write_text(to_toml(made))
    assert from_toml(tmp_path / "recipe.toml") == made


def test_list_shows_all(capsys):
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == list(RECIPES)


def ingredients(made: Recipe) -> tuple:
    augment, optim = made.data.augment, made.optim
    return (
        (made.data.size, made.data.tested_at, made.duration, made.batch_size),
        (optim.kind, optim.lr, optim.weight_decay, made.loss.kind, made.loss.label_smoothing),
        (augment.policy_magnitude, augment.mixup, augment.cutmix, augment.repeats),
        made.model.drop_path,
    )


def test_rsb_has_the_ingredients_of_its_table():
    """Wightman et al. 2021, Table 2."""
    assert [ingredients(recipe(f"imagenet-rsb-a{k}")) for k in (1, 2, 3)] == [
        ((224, 224, "600ep", 2048), ("lamb", 5e-3, 0.01, "bce", 0.1), (7, 0.2, 1, 3), 0.05),
        ((224, 224, "300ep", 2048), ("lamb", 5e-3, 0.02, "bce", 0.0), (7, 0.1, 1, 3), 0.05),
        ((160, 224, "100ep", 2048), ("lamb", 8e-3, 0.02, "bce", 0.0), (6, 0.1, 1, 1), 0.0),
    ]
    assert recipe("imagenet-rsb-a2", "plain34").model.drop_path == 0  # nothing to leave out


def rates(name: str) -> dict[int, float]:
    """Rate at the middle of each epoch."""
    made = recipe(name)
    total = made.steps(made.duration, IMAGES)
    plan = Schedule(made.schedule, made.optim.lr, total)
    epoch = IMAGES / made.batch_size
    return {k: plan.lr(round((k + 0.5) * epoch)) for k in range(round(total / epoch))}


def test_ninety_epochs_divide_at_30_60_and_80():
    seen = rates("imagenet-90")
    changes = [k for k, (a, b) in enumerate(itertools.pairwise(seen.values()), 1) if b < 0.5 * a]
    assert changes == [30, 60, 80]
    assert seen[0] == pytest.approx(0.01, rel=0.01)  # half of the first of five epochs of warm-up
    assert seen[5] == pytest.approx(0.1)
    assert seen[89] == pytest.approx(1e-4)


@pytest.mark.parametrize(("name", "grows"), [("16", (11, 13)), ("40", (29, 34))])
def test_images_of_the_fast_recipe_grow_as_published(name, grows):
    made = recipe(f"imagenet-fast-{name}")
    total = made.steps(made.duration, IMAGES)
    epoch = total / int(name)
    sizes = [
        size_at(made.data, made.data.size, round((k + 0.01) * epoch), total)
        for k in range(int(name))
    ]
    assert set(sizes) == {160, 192}
    assert sizes[: grows[0] + 1] == [160] * (grows[0] + 1)
    assert sizes[grows[1] :] == [192] * (int(name) - grows[1])
    seen = rates(f"imagenet-fast-{name}")
    assert max(seen, key=seen.get) in (1, 2)
    assert recipe(f"imagenet-fast-{name}", "resnet18").optim.weight_decay == 5e-5


def test_another_test_size_needs_random_crops():
    with pytest.raises(ConfigError, match=r"data\.test_size.*224.*data\.size 32"):
        dataclasses.replace(recipe("cifar10-fast").data, size=32, test_size=224)


@pytest.fixture(scope="module")
def photographs(shared_data, tmp_path_factory):
    """The first images of each class of Imagenette: 6 to train on, 2 to test on."""
    out = tmp_path_factory.mktemp("photographs")
    seen: dict[str, int] = {}
    with tarfile.open(shared_data / "imagenette160.tar") as tar:
        for member in tar:
            parts = member.name.split("/")
            if not member.isfile() or parts[-3] not in ("train", "val"):
                continue
            key = "/".join(parts[-3:-1])
            seen[key] = seen.get(key, 0) + 1
            if seen[key] > (6 if parts[-3] == "train" else 2):
                continue
            target = out / key / parts[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, open(target, "wb") as copy:
                shutil.copyfileobj(source, copy)
    return out


def run(name, data, out, *settings):
    """Four steps of a narrow model through the command line, at the recipe's rate per image."""
    made = recipe(name)
    rate = f"optim.lr={made.optim.lr * 16 / made.batch_size}"
    narrow = ("model.widths=[8, 8, 16, 16]", "model.stem_width=8")
    words = ["train", name, "--data", str(data), "--model", "resnet18", "--out", str(out)]
    words += ["--iterations", "4", "--device", "cpu", "--set", "batch_size=16"]
    for setting in (rate, *narrow, "data.size=48", "eval.every=4it", "log_every=1it", *settings):
        words += ["--set", setting]
    assert main(words) == 0
    return json.loads((out / "result.json").read_text())


@pytest.mark.parametrize("name", [name for name in IMAGENET if name != "imagenet-paper"])
def test_imagenet_recipe_trains_on_photographs(photographs, tmp_path, name):
    """Everything a recipe asks for, at once; imagenet-paper has its own test."""
    grown = ["data.grow_from=32"] if recipe(name).data.grow_from else []
    result = run(
        name, photographs, tmp_path / "run", "data.test_size=64", "data.resize=72",
        "compile=off", *grown,
    )  # fmt: skip
    assert result["test"]["examples"] == 20
    assert "64x64 px" in result["test"]["protocol"]
    losses = [row["loss"] for row in read_rows(tmp_path / "run") if row["kind"] == "train"]
    assert len(losses) == 4
    assert all(0 < loss < 10 for loss in losses)


def test_finetune_from_a_run(photographs, tmp_path, capsys):
    run("scratch", photographs, tmp_path / "first", "data.resize=56", "data.val_fraction=0.2")
    result = run(
        "finetune", photographs, tmp_path / "second", "data.resize=56", "data.val_fraction=0.2",
        f"weights={tmp_path / 'first'}", "finetune.layer_decay=0.7", "finetune.freeze_norm=true",
        "eval.every=1it", "eval.patience=2", "optim.lr=0.0",
    )  # fmt: skip
    assert result["test"]["examples"] == 20
    assert "stopped early at step 3" in capsys.readouterr().err
