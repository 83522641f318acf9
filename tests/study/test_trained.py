"""What all analyses of trained models share: results that are kept, and the index of a folder."""

import dataclasses

import pytest
from study_runs import train_on_digits

from resnets.config import ConfigError
from resnets.report.page import INDEX, update_index, write_index
from resnets.study.analyses.responses import ANALYSIS


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
