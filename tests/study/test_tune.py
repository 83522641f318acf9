"""`resnets tune`: a range test, and a seeded search on validation images alone."""

from dataclasses import replace
from pathlib import Path

import pytest
from digit_trees import recipe, write_tree

from resnets.cli.main import main
from resnets.config import ConfigError, from_toml
from resnets.study.tune.range_test import range_test
from resnets.study.tune.search import tune
from resnets.utils.errors import read_object

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory):
    tree = write_tree(tmp_path_factory.mktemp("tune") / "set")
    return recipe(tree, "40it", val_fraction=0.3)


def test_the_rate_rises_until_the_loss_does(chosen) -> None:
    found = range_test(chosen, "cpu")
    assert list(found.rates) == sorted(found.rates)
    assert found.rates[0] == pytest.approx(1e-5)
    assert len(found.losses) == len(found.rates) > 20
    assert found.rates[0] <= found.suggested < 1
    assert range_test(chosen, "cpu") == found


@pytest.mark.slow
def test_a_search_goes_on_as_it_would_have(chosen, tmp_path: Path) -> None:
    whole = tune(chosen, trials=2, budget="8it", out=tmp_path / "whole", device="cpu")
    tune(chosen, trials=1, budget="8it", out=tmp_path / "parts", device="cpu")
    again = tune(chosen, trials=2, budget="8it", out=tmp_path / "parts", device="cpu")
    assert [(each.fields, each.error) for each in again.trials] == [
        (each.fields, each.error) for each in whole.trials
    ]
    assert len({each.folder.name for each in whole.trials}) == 2
    for each in whole.trials:
        result = read_object(each.folder / "result.json")
        assert "test" not in result
        assert result["val"]["top1_error"] == each.error
    assert whole.best.error == min(each.error for each in whole.trials)
    written = from_toml(whole.folder / "recipe.toml")
    assert written == whole.recipe
    assert written.optim.lr == whole.best.fields["optim.lr"]
    assert (written.duration, written.eval.test) == ("40it", True)
    assert f"{whole.best.error:.2f}" in whole.report.read_text()
    with pytest.raises(ConfigError, match="another"):
        tune(chosen, trials=1, budget="9it", out=tmp_path / "whole", device="cpu")


def test_what_cannot_be_tuned_is_refused(chosen, tmp_path: Path) -> None:
    blind = replace(chosen, data=replace(chosen.data, val_fraction=0.0))
    with pytest.raises(ConfigError, match="val"):
        tune(blind, trials=1, budget="4it", out=tmp_path / "blind", device="cpu")
    assert main(["tune", "digits", "--trials", "0"]) == 2
    assert main(["tune", "segment"]) == 2
