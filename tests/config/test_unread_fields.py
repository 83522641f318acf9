"""Fields that a recipe does not read are refused or warned about by name, for every task."""

import dataclasses

import pytest

import resnets
from resnets.api.recipe import choose_recipe
from resnets.config import ConfigError, DataSpec, Recipe, from_toml, to_toml
from resnets.config.unread_fields import DEFAULTS, RULES, iter_fields, unread_fields
from resnets.data.sources.open import find_source
from resnets.recipes import RECIPES
from resnets.study.grid.cells import Grid, check_settings

HEADS = {"detect": "fpn", "instances": "c4", "segment": "fcn", "localize": "pcr"}


def warned(caplog, path):
    return [line for line in caplog.messages if path in line]


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("detect", "data.normalize", "channel"),  # its default
        ("instances", "data.normalize", "per-pixel-mean"),
        ("detect-small", "data.augment.mixup", 0.2),
        ("detect", "data.value_range", (0.0, 4095.0)),
        ("detect", "data.in_memory", "always"),
        ("segment", "data.size", 64),
        ("segment", "detect.anchor_sizes", (32,)),
        ("localize", "detect.context", True),
        ("detect", "loss.label_smoothing", 0.1),
        ("detect", "schedule.hold_until_error", 50.0),
        ("detect", "eval.batch_size", 4),
        ("detect", "data.labels", "single"),
        ("localize", "optim.head_lr_scale", 2.0),
        ("text", "channels_last", False),
        ("signals", "channels_last", False),
        ("scratch", "detect.flip", True),
        ("digits", "detect.train_set", "train"),
    ],
)
def test_what_the_task_never_reads_is_refused_by_name(name, path, value, tmp_path):
    with pytest.raises(ConfigError, match=rf"{path} = "):
        choose_recipe(name, fields={path: value})
    *tables, leaf = path.split(".")
    nested = {leaf: value}
    for table in reversed(tables):
        nested = {table: nested}
    with pytest.raises(ConfigError, match=rf"{path} = "):
        choose_recipe(name, fields=nested)


@pytest.mark.parametrize("path", ["weights", "data.quarantine", "distill.teacher", "data.source"])
def test_empty_strings_without_meaning_are_refused(path):
    with pytest.raises(ConfigError, match=f"{path}:? is empty"):
        choose_recipe("scratch", fields={path: ""})


def test_an_empty_name_is_not_a_path_of_the_current_folder():
    assert choose_recipe("detect", fields={"detect.train_set": ""}).detect.train_set == ""
    for call in (lambda: choose_recipe("scratch", data=""), lambda: resnets.load("")):
        with pytest.raises(ConfigError, match="empty"):
            call()


@pytest.mark.parametrize("path", ["labels_from", "ground_truth"])
def test_fields_that_the_form_of_a_set_does_not_read_are_warned_about(path):
    spec = DataSpec(**{path: "name"})
    (warning,) = find_source(spec).warnings
    assert f"data.{path} = 'name'" in warning


def test_a_spec_states_the_fields_that_differ_from_the_defaults():
    choose_recipe("detect", fields={"data": DataSpec(source="set")})
    with pytest.raises(ConfigError, match=r"data\.size = "):
        choose_recipe("detect", fields={"data": DataSpec(source="set", size=64)})
    recipe = RECIPES["detect"]()
    with pytest.raises(ConfigError, match=r"data\.size = "):
        choose_recipe(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, size=64)))


def test_a_file_states_what_is_in_it(tmp_path, caplog):
    path = tmp_path / "recipe.toml"
    path.write_text('task = "detect"\nlabel_smoothing = 0.0\n[data]\nnormalize = "channel"\n')
    assert choose_recipe(str(path)).task == "detect"
    assert len(warned(caplog, "data.normalize, loss.label_smoothing")) == 1
    path.write_text('task = "detect"\n[data]\nnormalise = "per-pixel-mean"\n')  # the old name
    with pytest.raises(ConfigError, match=r"recipe.toml: data\.normalize = "):
        choose_recipe(str(path))
    path.write_text('[optim]\nkind = "adamw"\nmomentum = 0.8\n')
    choose_recipe(str(path))
    assert len(warned(caplog, "optim.momentum = 0.8")) == 1


@pytest.mark.parametrize(
    ("name", "path", "value", "switch"),
    [
        ("digits", "optim.betas", (0.9, 0.95), {"optim.kind": "adamw"}),
        ("digits", "optim.momentum", 0.9, {"optim.kind": "sgd"}),
        ("scratch", "finetune.layer_decay", 0.5, {"weights": "torchvision:DEFAULT"}),
        ("scratch", "data.augment.pad", 2, {"data.augment.crop": "pad"}),
        ("scratch", "data.grow_step", 16, {"data.grow_from": 128}),
        ("scratch", "data.shuffle_buffer", 16, {"data.streaming": True}),
        ("digits", "schedule.patience", 3, {"schedule.kind": "plateau"}),
        ("localize", "detect.proposals", (50, 50), {"detect.head": "rcnn"}),
        ("detect", "detect.pyramid_width", 64, {"detect.head": "fpn"}),
        ("digits", "model.num_classes", 4, None),
        ("scratch", "data.augment.flip_rule", "alternate", {"data.augment.flip": True}),
        ("scratch", "data.test_fraction", 0.1, {"data.folds": 0}),
        ("scratch", "loss.label_smoothing", 0.2, {"distill.weight": 0.5}),
        ("detect", "detect.rpn_batch_size", 8, {"detect.train_part": "all"}),
        ("detect", "detect.box_batch_size", 8, {"detect.train_part": "all"}),
    ],
)
def test_what_other_fields_leave_without_effect_is_warned_about(name, path, value, switch, caplog):
    others = {
        "optim.momentum": {"optim.kind": "lamb"},
        "detect.pyramid_width": {"detect.head": "c4", "detect.anchor_sizes": (32, 64)},
        "data.augment.flip_rule": {"data.augment.flip": False},
        "data.test_fraction": {"data.folds": 3},
        "loss.label_smoothing": {"distill.weight": 1.0, "distill.teacher": "x"},
        "detect.rpn_batch_size": {"detect.train_part": "regions"},
        "detect.box_batch_size": {"detect.train_part": "proposals"},
    }
    choose_recipe(name, fields={path: value, **others.get(path, {})})
    assert len(warned(caplog, f"{path} = ")) == 1
    caplog.clear()
    if switch is not None:
        choose_recipe(name, fields={path: value, **switch})
        assert not warned(caplog, path)


def test_settings_of_a_study_are_checked(caplog):
    grid = Grid(
        study="depth", models=("cifar-plain8", "cifar-resnet8"), seeds=(1, 1), recipe="digits",
        data="digits", budget="2it", settings=("optim.betas=[0.9, 0.9]",),
    )  # fmt: skip
    assert len(check_settings(grid)) == 1
    with pytest.raises(ConfigError, match=r"detect\.flip = "):
        check_settings(dataclasses.replace(grid, settings=("detect.flip=true",)))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_of_the_package_set_no_unread_fields(name, tmp_path, caplog):
    recipe = RECIPES[name]()
    assert choose_recipe(recipe) == recipe
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe))
    assert choose_recipe(str(path)) == recipe == from_toml(path)
    assert not caplog.messages
    values = dict(iter_fields(recipe))
    stray = [path for path in unread_fields(recipe) if values[path] != DEFAULTS[path]]
    assert set(stray) <= {"model.num_classes", "model.input_size"}


def test_every_rule_names_fields_of_a_recipe():
    for rule in RULES:
        assert list(rule), rule.fields
        for name in rule.fields.split():
            assert name in DEFAULTS or name.endswith(".*"), name
    for task, head in HEADS.items():
        recipe = Recipe(task=task)
        recipe = dataclasses.replace(recipe, detect=dataclasses.replace(recipe.detect, head=head))
        unread = unread_fields(recipe)
        assert {"data.size", "data.augment.flip", "loss.label_smoothing"} <= unread.keys()
        assert not {"data.source", "data.val_fraction", "optim.lr", "detect.flip"} & unread.keys()


def test_batches_of_evaluation_are_read_by_all_but_detectors():
    for name in ("digits", "text", "signals"):
        assert choose_recipe(name, fields={"eval.batch_size": 4}).eval.batch_size == 4
