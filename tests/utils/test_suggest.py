"""Hints to a similar known name."""

from pathlib import Path

import pytest

from resnets.config import ConfigError, from_toml
from resnets.train.resume import check_is_run
from resnets.utils.suggest import find_similar, suggest, suggest_path


@pytest.mark.parametrize(
    ("name", "known", "similar"),
    [
        ("resnet5O", ["resnet18", "resnet50"], "resnet50"),
        ("ResNet_50", ["resnet-50", "resnet-101"], "resnet-50"),  # case, hyphen or underscore
        ("batch-size", ["batch_size", "batches"], "batch_size"),
        ("CAT", ["dog", "Cat"], "Cat"),
        ("ema", ["ema_decay", "epochs"], "ema_decay"),  # the only name that begins so
        ("c", ["cow", "cat"], None),
        ("zebra", ["dog", "Cat"], None),
        ("", ["dog"], None),
        ("dog", [], None),
    ],
)
def test_finds_the_most_similar_name(name: str, known: list[str], similar: str | None) -> None:
    assert find_similar(name, known) == similar
    if similar is not None:
        assert suggest(name, known) == f"did you mean {similar}?"


def test_lists_the_known_names_if_none_is_similar() -> None:
    assert suggest("zebra", iter(["dog", "cat"])) == "known: dog, cat"
    assert suggest("zebra", ["dog"], "see --help") == "see --help"
    assert suggest("zebra", [f"class{index}" for index in range(25)]).endswith("and 5 more")


def test_suggests_a_path_in_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "run1").mkdir()
    assert suggest_path(tmp_path / "run2") == f"; did you mean {tmp_path / 'run1'}?"
    assert suggest_path(tmp_path / "run1") == ""
    assert suggest_path(tmp_path / "zebra") == ""
    assert suggest_path(tmp_path / "none" / "run2") == ""


def test_errors_of_missing_files_suggest_a_similar_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "run-1").mkdir()
    with pytest.raises(ConfigError, match=r"did you mean \S+recipe\.toml\?"):
        from_toml(tmp_path / "recpe.toml")
    with pytest.raises(ConfigError, match=r"did you mean \S+run-1\?"):
        check_is_run(tmp_path / "run1")
