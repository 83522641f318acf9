"""Names of earlier versions are read everywhere and written nowhere."""

import dataclasses
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from paths import GOLDEN

from resnets import recipes
from resnets.config import (
    ConfigError,
    Recipe,
    aliases,
    from_dict,
    from_toml,
    replace_fields,
    to_dict,
    to_toml,
)
from resnets.weights.checkpoint.format import read_checkpoint

FIELDS = aliases.FIELDS["recipe"]
# Values that are not the defaults.
OTHERS: dict[str, Any] = {
    "loss": "bce",
    "label_smoothing": 0.3,
    "data.normalise": "imagenet",
    "data.truth": "labels.txt",
    "data.max_bad": 0.5,
    "data.augment.pca_colour": 0.1,
    "data.augment.erase": 0.25,
    "detect.skip_bad": True,
    "detect.upright": True,
    "detect.nms": 0.3,
    "detect.anchors": 7,
    "detect.regions": 9,
    "detect.auxiliary": 0.4,
}


def value_of(recipe: Recipe, path: str) -> Any:
    found: Any = recipe
    for name in path.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("old", FIELDS)
def test_a_recipe_with_an_old_field(old: str) -> None:
    new, value = FIELDS[old], OTHERS[old]
    assert value_of(Recipe(), new) != value
    nested: dict[str, Any] = {}
    table = nested
    for name in old.split(".")[:-1]:
        table = table.setdefault(name, {})
    table[old.rpartition(".")[2]] = value
    assert value_of(from_dict(Recipe, nested), new) == value
    changed = replace_fields(Recipe(), {old: value})
    assert value_of(changed, new) == value
    written = tomllib.loads(to_toml(changed))
    assert from_dict(Recipe, written) == changed
    for name in old.split(".")[:-1]:
        written = written[name]
    assert isinstance(written.get(old.rpartition(".")[2], {}), dict)  # a table may have its name


def test_fields_that_moved_into_a_table() -> None:
    """`loss` was a field beside `label_smoothing`; both are fields of the table `loss` now."""
    moved = {"kind": "bce", "label_smoothing": 0.1}
    fields: tuple[dict[str, Any], ...] = (
        {"loss": "bce", "label_smoothing": 0.1},
        {"label_smoothing": 0.1, "loss": "bce"},
        {"loss": moved},
        {"loss": {"kind": "bce"}, "label_smoothing": 0.1},
        {"loss": moved, "label_smoothing": 0.5},  # the new one of two is kept
    )
    for each in fields:
        found = from_dict(Recipe, each).loss
        assert (found.kind, found.label_smoothing) == ("bce", 0.1)
    for each in fields[:2]:
        assert replace_fields(Recipe(), each) == from_dict(Recipe, each)
    for wrong in ({"loss": "bces"}, {"loss": 3}, {"loss": {"kinds": "bce"}}):
        with pytest.raises(ConfigError, match=r"loss\.kind"):
            from_dict(Recipe, wrong)
    with pytest.raises(ConfigError, match="loss"):
        from_dict(Recipe, {"loss": ["bce"], "label_smoothing": 0.1})


def test_a_recipe_with_both_names_of_a_field_keeps_the_new_one() -> None:
    both = {"data": {"normalise": "channel", "normalize": "imagenet"}}
    assert from_dict(Recipe, both).data.normalize == "imagenet"


def test_a_misspelled_field_of_an_old_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="normalize"):
        from_dict(Recipe, {"data": {"normalises": "imagenet"}})


@pytest.mark.parametrize("path", aliases.VALUES["recipe"])
def test_old_values(path: str) -> None:
    for old, new in aliases.VALUES["recipe"][path].items():
        assert value_of(replace_fields(Recipe(), {path: old}), path) == new


@pytest.mark.parametrize("old", aliases.RECIPES)
def test_old_names_of_recipes(old: str) -> None:
    assert old not in recipes.RECIPES
    assert recipes.recipe(old) == recipes.recipe(aliases.RECIPES[old])


def test_a_recipe_of_an_earlier_version() -> None:
    path = GOLDEN / "written_2026_11_30" / "run" / "recipe.toml"
    assert "normalise" in path.read_text()
    written = to_dict(from_toml(path))
    assert {"normalize", "max_unreadable"} <= written["data"].keys()
    names = {field.name for field in dataclasses.fields(Recipe().data)}
    assert written["data"].keys() <= names


@pytest.mark.parametrize("kind", aliases.FIELDS)
def test_old_fields_of_every_file(kind: aliases.FileKind) -> None:
    """Each old path, alone in a file, becomes its new one, and the new one stays."""
    for old, new in aliases.FIELDS[kind].items():
        found: dict[str, Any] = {}
        table = found
        *parents, key = old.split(".")
        for name in parents:
            table = table.setdefault(name, {})
        table[key] = 1
        current = aliases.with_current_names(found, kind)
        assert aliases.with_current_names(current, kind) == current
        for name in new.split(".")[:-1]:
            current = current[name if name in current else aliases.FIELDS[kind][name]]
        assert current == {new.rpartition(".")[2]: 1}


def test_files_of_an_earlier_version() -> None:
    written = GOLDEN / "written_2026_11_30"
    result = aliases.read_json(written / "run" / "result.json", "result")
    assert (result["model"], result["splits"]["images"]["train"]) == ("tiny", 4)
    environment = aliases.read_json(written / "run" / "environment.json", "environment")
    assert (environment["amx"], environment["malloc_tuned"]) == (False, True)
    manifest = aliases.read_json(written / "net.onnx.json", "manifest")
    assert manifest["input"]["precropped"] == [16, 16]
    assert len(manifest["source"]["model_sha256"]) == 64
    summary = aliases.read_json(written / "bulk" / "summary.json", "bulk-summary")
    assert (summary["images"], summary["top_classes"]) == (12, {"digit1": 12})
    meta = read_checkpoint(written / "run" / "checkpoints" / "last.safetensors").meta
    assert meta["execution_plan"]["malloc_tuned"] is True
    assert "evals_since_best" in meta["state"]


def test_a_class_called_as_an_old_field_keeps_its_name() -> None:
    found = {"likeliest": {"net": 3, "pictures": 4}}
    current = aliases.with_current_names(found, "bulk-summary")
    assert current == {"top_classes": {"net": 3, "pictures": 4}}


def test_old_flags() -> None:
    words = ["push", "run", "--licence", "mit", "--licence=mit", "--max_bad", "1", "--", "--truth"]
    assert aliases.current_words(words) == [
        "push",
        "run",
        "--license",
        "mit",
        "--license=mit",
        "--max-unreadable",
        "1",
        "--",
        "--truth",
    ]
    for words in (["--views", "centre"], ["--views=centre"]):
        assert "=".join(aliases.current_words(words)) == "--views=center"
    assert aliases.current_words(["--data", "centre"]) == ["--data", "centre"]


@pytest.mark.slow
@pytest.mark.parametrize("new", sorted(set(aliases.FLAGS.values())))
def test_new_flags_exist(new: str) -> None:
    commands = ("train", "push", "evaluate", "data pack", "data check", "study depth")
    helps = (
        subprocess.run(
            [sys.executable, "-m", "resnets", *command.split(), "--help"],
            capture_output=True, text=True, check=True,
        ).stdout
        for command in commands
    )  # fmt: skip
    assert any(new in text for text in helps)
