"""`resnets tune`: a range test, and a seeded search on validation images alone."""

import html
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digit_folders import recipe, write_tree

import resnets
import resnets.study.tune as search
from resnets.cli.main import main
from resnets.config import ConfigError, dump_json, from_toml
from resnets.study.tune import RangeTest, range_test
from resnets.utils.files.json import read_object

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
def test_a_resumed_search_equals_an_uninterrupted_one(chosen, tmp_path: Path) -> None:
    whole = resnets.tune(chosen, trials=2, budget="8it", out=tmp_path / "whole", device="cpu")
    resnets.tune(chosen, trials=1, budget="8it", out=tmp_path / "parts", device="cpu")
    again = resnets.tune(chosen, trials=2, budget="8it", out=tmp_path / "parts", device="cpu")
    assert [(each.fields, each.error) for each in again.trials] == [
        (each.fields, each.error) for each in whole.trials
    ]
    assert len({each.folder.name for each in whole.trials}) == 2
    first = whole.trials[0].fields
    assert first == {
        "optim.lr": chosen.optim.lr,
        "optim.weight_decay": chosen.optim.weight_decay or 1e-5,
    }
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
    assert [row["trial"] for row in whole.tables["trials"]] == [
        each.number for each in sorted(whole.trials, key=lambda each: each.error)
    ]
    from_api = resnets.tune(
        chosen, trials=2, budget="8it", out=tmp_path / "whole", device=torch.device("cpu")
    )
    assert from_api.recipe == whole.recipe
    assert repr(from_api).startswith(f"TuneResult('{tmp_path / 'whole'}', tables=['range-test', ")
    with pytest.raises(ConfigError, match="another"):
        resnets.tune(chosen, trials=1, budget="9it", out=tmp_path / "whole", device="cpu")


@pytest.mark.parametrize(
    ("loss", "val", "error"),
    [
        ({}, {"top1_error": 10.0, "balanced_error": 40.0}, 10.0),
        ({"class_weights": "auto"}, {"top1_error": 10.0, "balanced_error": 40.0}, 40.0),
        ({"kind": "bce"}, {"mAP": 70.0, "macro_f1": 50.0}, 30.0),
    ],
)
def test_a_search_minimizes_what_chooses_the_best_checkpoint(
    chosen, tmp_path: Path, loss, val, error
) -> None:
    found = replace(chosen, loss=replace(chosen.loss, **loss))
    fields = {"optim.lr": 0.1}
    folder = search._trial_folder(tmp_path, fields)
    folder.mkdir(parents=True)
    dump_json({"val": val}, folder / "result.json")
    assert search._run_trial(tmp_path, found, fields, "cpu") == error


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Trials without training: the error is a function of the rate; returns what was tried."""
    tried: list[dict[str, object]] = []

    def error(_: Path, __: object, fields: dict[str, object], ___: str) -> float:
        tried.append(fields)
        if len(tried) == 2:
            raise KeyboardInterrupt
        return 100 * float(fields["optim.lr"]) % 100

    found = RangeTest((1e-3, 1e-2), (2.0, 1.0))
    monkeypatch.setattr(search, "_run_trial", error)
    monkeypatch.setattr(search, "range_test", lambda *_: found)
    return tried


def test_an_interrupted_trial_is_repeated(chosen, untrained, tmp_path: Path) -> None:
    out = tmp_path / "50% of a?b#c"  # characters that mean something in the store's URL
    with pytest.raises(KeyboardInterrupt):
        resnets.tune(chosen, trials=3, out=out, device="cpu")
    again = resnets.tune(chosen, trials=3, out=out, device="cpu")
    assert untrained[0]["optim.lr"] == chosen.optim.lr
    assert untrained[1] == untrained[2]
    assert [each.fields for each in again.trials] == [untrained[0], *untrained[2:]]
    assert os.listdir(tmp_path) == [out.name]
    assert (out / search.STORE).is_file()
    command = re.search(r"<pre[^>]*>(.*?)</pre>", (out / "report.html").read_text())[1]
    assert shlex.split(html.unescape(command))[2:] == [str(out / search.BEST)]
    assert "Trial 0 has" in (out / "report.html").read_text()
    with pytest.raises(ConfigError, match="seed 0, not 1"):
        resnets.tune(chosen, trials=4, seed=1, out=out, device="cpu")
    assert len(untrained) == 4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (search.RANGE, "{}"),
        (search.RANGE, '{"rates": [], "losses": []}'),
        (search.RANGE, '{"rates": [-1], "losses": [1]}'),
        (search.STORE, "no database, though longer than the first page's head" * 20),
        (search.BASE, "name ="),
    ],
)
def test_damaged_files_of_a_search_are_one_line(
    chosen, untrained, tmp_path: Path, name: str, text: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(text)
    with pytest.raises(ConfigError, match=name):
        resnets.tune(chosen, trials=1, out=out, device="cpu")


@pytest.mark.parametrize("text", ['{"val": 1}', '{"val": {"top1_error": NaN}}'])
def test_a_damaged_result_of_a_trial_is_one_line(chosen, tmp_path: Path, text: str) -> None:
    fields = {"optim.lr": 0.1}
    folder = search._trial_folder(tmp_path, fields)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(text)
    with pytest.raises(ConfigError, match=r"result\.json"):
        search._run_trial(tmp_path, chosen, fields, "cpu")


def test_what_cannot_be_tuned_is_refused(chosen, tmp_path: Path) -> None:
    blind = replace(chosen, data=replace(chosen.data, val_fraction=0.0))
    with pytest.raises(ConfigError, match="val"):
        resnets.tune(blind, trials=1, budget="4it", out=tmp_path / "blind", device="cpu")
    assert main(["tune", "digits", "--trials", "0"]) == 2
    assert main(["tune", "segment"]) == 2


def test_a_search_of_an_earlier_version_has_no_trial_of_its_own_settings(
    chosen, untrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, out = search._own_settings, tmp_path / "search"
    monkeypatch.setattr(search, "_own_settings", lambda _: {**own(chosen), "lr": 0.004})
    resnets.tune(chosen, trials=1, out=out, device="cpu")
    monkeypatch.setattr(search, "_own_settings", own)
    again = resnets.tune(chosen, trials=1, out=out, device="cpu")
    assert again.best.fields["optim.lr"] == 0.004
    assert "own settings" not in (out / "report.html").read_text()


def test_refused_arguments_are_named_as_python_spells_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options, message in (
        ({"trials": 0}, "^trials=0"),
        ({"trials": "2"}, "^trials='2': must be a whole number"),
        ({"budget": "soon"}, "soon"),
        ({"lr": 0.1}, "^fields: unknown field lr; did you mean optim.lr"),
    ):
        with pytest.raises(ConfigError, match=message):
            resnets.tune("digits", **options)
    assert not list(tmp_path.iterdir())
