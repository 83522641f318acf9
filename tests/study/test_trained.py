"""What all analyses of trained models share: results that are kept, and the index of a folder."""

import dataclasses

import pytest
import torch
from study_runs import train_on_digits

import resnets
from resnets.config import ConfigError
from resnets.report.page import INDEX, update_index, write_index
from resnets.study.analyses.responses import ANALYSIS


@pytest.mark.ci
def test_results_of_the_same_measurement_are_not_measured_again(tmp_path, caplog):
    runs = [train_on_digits(tmp_path / net, net, 2) for net in ("cifar-resnet8", "cifar-plain8")]
    out = tmp_path / "studies" / "responses"
    options = {"data": None, "examples": 20, "device": "cpu", "out": out}

    class StopError(Exception):
        pass

    def fails(subject):
        raise StopError

    def stops_at_the_second(subject):
        return ANALYSIS.measure(subject) if subject.label == "cifar-resnet8" else fails(subject)

    with pytest.raises(StopError):
        dataclasses.replace(ANALYSIS, measure=stops_at_the_second).run(runs, **options)
    assert not (out / "report.html").exists()
    report = ANALYSIS.run(runs, **options)
    whole = report.report.read_bytes()
    nothing = dataclasses.replace(ANALYSIS, measure=fails)
    assert nothing.run(runs, **options).report.read_bytes() == whole
    assert (out / "numbers" / "responses.csv").stat().st_size > 0
    for change in ({"examples": 19}, {"seed": 1}):
        with pytest.raises(StopError):
            nothing.run(runs, **options | change)
    (out / "rows" / "0.json").write_text("{")
    with pytest.raises(StopError):
        nothing.run(runs, **options)

    with pytest.raises(ConfigError, match="no folder of a study"):
        write_index(tmp_path)  # runs have reports, too
    update_index(out)
    assert not (out.parent / INDEX).exists()  # nobody asked for one there
    index = write_index(out.parent).read_text(encoding="utf-8")
    assert 'href="responses/report.html"' in index
    assert "Layer responses" in index
    (out.parent / INDEX).unlink()
    (out.parent / INDEX).touch()
    update_index(out)
    assert (out.parent / INDEX).read_text(encoding="utf-8") == index


def test_a_loaded_model_is_measured_as_its_run_and_stays_as_it_was(tmp_path):
    run = train_on_digits(tmp_path / "run", "cifar-resnet8", 2)
    model = resnets.load(run).train()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    options = {"examples": 20, "device": "cpu"}
    of_run = resnets.study.landscape(run, steps=3, out=tmp_path / "of-run", **options)
    of_model = resnets.study.landscape(model, steps=3, out=tmp_path / "of-model", **options)
    assert of_model.tables == of_run.tables
    assert "resnets study landscape" in of_run.report.read_text(encoding="utf-8")
    assert "resnets study landscape" not in of_model.report.read_text(encoding="utf-8")
    assert model.training
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    pair = resnets.study.responses([model, run, model], out=tmp_path / "pair", **options)
    labels = {row["model"] for row in pair.tables["responses"]}
    assert labels == {f"cifar-resnet8 ({each})" for each in ("model 1", "run", "model 3")}
    assert resnets.study.identity(resnets.Run(run), out=tmp_path / "identity", **options).tables
    with pytest.raises(ConfigError, match="loaded model"):
        resnets.study.responses(model, model="cifar-resnet8")
    with pytest.raises(ConfigError, match="trained on"):
        resnets.study.responses([model, "resnets:cifar10/cifar-resnet20"], **options)
    model.recipe = None
    with pytest.raises(ConfigError, match="training data"):
        resnets.study.responses(model, **options, out=tmp_path / "unknown")
