"""Recipes: TOML in and out, and errors that name the field."""

import dataclasses
import tomllib

import pytest

from resnets.config import (
    ConfigError,
    ModelSpec,
    Recipe,
    flatten_fields,
    from_dict,
    from_toml,
    parse_duration,
    replace_fields,
    to_toml,
)
from resnets.recipes import RECIPES, recipe
from resnets.utils.files.write import atomic_write


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_survives_toml(name, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe(name)))
    assert from_toml(path) == recipe(name)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_says_what_to_expect(name):
    text = RECIPES[name].__doc__
    assert "Command:" in text
    assert "Expected" in text
    assert "here" in text


def test_the_recipe_has_the_model_and_its_warm_up():
    assert recipe("cifar10-paper", "cifar-resnet56").schedule.hold_until_error is None
    deep = recipe("cifar10-paper", "cifar-resnet110")
    assert deep.schedule.hold_until_error == 80.0
    assert deep.optim.lr * deep.schedule.hold_factor == pytest.approx(0.01)
    assert recipe("cifar10-paper", "cifar-resnet1202").recompute


def test_set_reads_toml_values():
    changed = replace_fields(
        Recipe(),
        {"optim.lr": "0.05", "model.depths": "[1, 1, 1, 1]", "model.shortcut": "none"},
    )
    assert changed.optim.lr == 0.05
    assert changed.model.depths == (1, 1, 1, 1)
    assert changed.model.shortcut == "none"


def test_set_none_clears_an_optional_field():
    sized = replace_fields(Recipe(), {"data.size": "32"})
    assert sized.data.size == 32
    assert replace_fields(sized, {"data.size": "none"}).data.size is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim.lrr": "1"}, "unknown field optim.lrr; did you mean optim.lr?"),
        ({"optim.lr": "fast"}, "optim.lr: .*number.*'fast'"),
        ({"model.block": "dense"}, "model.block: .*'basic'.*'dense'"),
        ({"model.depths": "[1, 2]"}, "model: depths"),
        ({"duration": "5 days"}, "not a duration such as '64000it'"),
        ({"checkpoint_every": "5"}, "checkpoint_every: .* 5it .* or 5ep"),
        ({"eval.every": "2.5"}, r"eval\.every: .* 2\.5it .* or 2\.5ep"),
        ({"data.val_fraction": "1.5"}, r"data\.val_fraction: 1\.5 must be"),
        ({"batch_size": "0"}, "at least 1"),
        ({"seed.x": "1"}, r"seed\.x: "),
        ({"optim.lr": "nan"}, r"optim\.lr: nan must be finite"),
        ({"data.augment.mixup": float("inf")}, r"data\.augment\.mixup: inf"),
        ({"distill.teacher": " "}, r"distill\.teacher: is empty"),
        ({"detect.train_sizes": "96"}, r"detect\.train_sizes: .*list.* \[96\]"),
        ({"trackers": "wandb"}, r"trackers: .*list.* \['wandb'\]"),
        ({"optim.betas": "[0.9]"}, r"optim\.betas: .*2 values, got \[0\.9\]"),
        ({"optim.betas": "[1, 2, 3]"}, r"optim\.betas: .*2 values, got \[1, 2, 3\]"),
        ({"batch_size": "1.5"}, r"batch_size: .*whole number, got 1\.5"),
        ({"optim": 5}, "optim: .*table.*got 5"),
    ],
)
def test_bad_fields_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        replace_fields(Recipe(), change)


def test_unreadable_recipe_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read as a recipe"):
        from_toml(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("lr = = 1")
    with pytest.raises(ConfigError, match="broken.toml"):
        from_toml(broken)
    broken.write_text("[optim]\nlearning_rate = 1.0")
    with pytest.raises(ConfigError, match="optim.learning_rate"):
        from_toml(broken)


def test_unknown_recipe_suggests():
    with pytest.raises(ConfigError, match="did you mean cifar10-paper"):
        recipe("cifar-paper")


def test_steps_of_durations():
    plan = Recipe(batch_size=128)
    assert plan.steps("64000it", 50_000) == 64_000
    assert plan.steps("1ep", 50_000) == 391
    assert plan.steps("0.001ep", 100) == 1
    assert parse_duration("2.5ep", "duration") == (2.5, "ep")


def test_specs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelSpec().num_classes = 3  # type: ignore[misc]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "figures.json"
    with atomic_write(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    assert path.read_text() == "old"
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("ha")
        raise KeyboardInterrupt
    with (
        pytest.raises(FileNotFoundError, match="nowhere"),
        atomic_write(tmp_path / "nowhere" / "a"),
    ):
        raise FileNotFoundError("nowhere")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_class_weights_are_a_name_or_a_table() -> None:
    for given in ("{cat = 2, 'a.b' = 0.5}", {"cat": 2.0, "a.b": 0.5}):
        changed = replace_fields(Recipe(), {"loss.class_weights": given})
        assert changed.loss.class_weights == {"cat": 2.0, "a.b": 0.5}
        assert from_dict(Recipe, tomllib.loads(to_toml(changed))) == changed
    one = replace_fields(Recipe(), {"loss.class_weights": "auto", "loss.class_weights.cat": "3"})
    assert one.loss.class_weights == {"cat": 3.0}
    nested = {"loss": {"class_weights": {"cat": 2.0}}, "data": {"augment": {"mixup": 0.1}}}
    assert dict(flatten_fields(nested)) == {
        "loss.class_weights": {"cat": 2.0},
        "data.augment.mixup": 0.1,
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("loss.class_weights", "even"),
        ("loss.class_weights", "3"),
        ("loss.class_weights.cat", "-1"),
        ("loss.class_weights.cat", "many"),
        ("loss.gamma", "1.0"),  # of the focal loss only
        ("loss.label_smoothing", "1.5"),
    ],
)
def test_wrong_losses_are_refused_by_field(path: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace_fields(Recipe(), {path: value})
    assert str(caught.value).startswith(f"--set: {path}: ")
