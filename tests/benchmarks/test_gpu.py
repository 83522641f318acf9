"""benchmarks/gpu.py on a CPU, where plain calls stand in for CUDA graphs."""

import contextlib
import dataclasses
import importlib
import json
import subprocess
import sys
import time
from functools import partial
from importlib import metadata

import pytest
from paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.py"


def arguments(folder, *more):
    options = ["--device", "cpu", "--tiny", "--results", folder / "gpu.jsonl", "--out", folder]
    return [*map(str, options), "--data", str(folder), "--limit", "5000", *more]


def lines(folder):
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines()]


@pytest.fixture
def checks(monkeypatch):
    """Import a module of benchmarks/ or docs/ by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return lambda name: importlib.import_module(name)


@pytest.mark.ci
def test_sections_are_recorded_once_and_are_right(tmp_path, checks, monkeypatch, capsys):
    gpu = checks("gpu")
    for sections in ("facts,correct,first", "first,facts"):
        assert gpu.run_cases(gpu.parse(arguments(tmp_path, "--only", sections))) == 0
    found = lines(tmp_path)
    assert [line["section"] for line in found if line["section"] != "correct"] == ["facts", "first"]
    assert not [line for line in found if "error" in line]
    verdicts = {row["verdict"] for line in found for row in line["rows"] if "verdict" in row}
    assert verdicts == {"right"}


@pytest.mark.ci
def test_the_other_sections_run(tmp_path):
    sections = ("--only", "ladder,waits,basics,resnet50,commands,at-once,full")
    command = [sys.executable, SCRIPT, *arguments(tmp_path, *sections)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = lines(tmp_path)
    assert not [line for line in found if "error" in line]
    assert {line["section"] for line in found} >= {"resnet50", "basics", "commands", "at-once"}
    (graph,) = [line["rows"] for line in found if line["case"] == "graph"]
    assert "the device is cpu" in graph[0]["notes"]  # on a GPU an error
    assert [line["section"] for line in found[-2:]] == ["resnet50"] * 2  # those that compile


def test_a_failed_case_is_recorded_and_the_next_one_runs(tmp_path, checks):
    gpu, case, record = (checks(name) for name in ("gpu", "gpu_checks.case", "gpu_checks.record"))
    setting = case.Setting(gpu_device(), tmp_path, tmp_path, time.monotonic() + 100, tiny=True)
    results = record.Record(tmp_path / "gpu.jsonl", "a machine")

    def fails():
        raise RuntimeError("no\nkernel")

    def skipped():
        raise case.Skipped("no data")

    for name, work in (("a", fails), ("b", skipped), ("c", lambda: [{"ms": 1.5}])):
        assert gpu.run_case(setting, results, "s", case.Case(name, 1, work))
    found = lines(tmp_path)
    assert [(line["case"], line.get("rows")) for line in found] == [
        ("a", None),
        ("c", [{"ms": 1.5}]),
    ]
    assert "\n" not in found[0]["error"]
    assert "in fails" in found[0]["traceback"]
    with (tmp_path / "gpu.jsonl").open("a") as file:
        file.write('{"section": "s", "ca')  # the machine went away
    again = record.Record(tmp_path / "gpu.jsonl", "a machine")
    assert (again.is_done("s", "a"), again.is_done("s", "c")) == (False, True)
    again.add("s", "d", 1.0, [{"ms": 2.5}], None)  # on a line of its own
    assert record.Record(tmp_path / "gpu.jsonl", "a machine").is_done("s", "d")


def run_facts(checks, monkeypatch, folder, *works, options=()):
    """The exit code of a run whose cases are `works`."""
    gpu, case = checks("gpu"), checks("gpu_checks.case")
    made = [case.Case(f"case {number}", 1, work) for number, work in enumerate(works)]
    monkeypatch.setattr(checks("gpu_checks.facts"), "cases", lambda setting: made)
    return gpu.run_cases(gpu.parse(arguments(folder, "--only", "facts", *options)))


@pytest.mark.ci
def test_a_run_with_a_failed_or_wrong_case_returns_1_after_the_others(
    tmp_path, checks, monkeypatch, capsys
):
    case = checks("gpu_checks.case")

    def fails():
        raise RuntimeError("no kernel")

    right = partial(list, [{"verdict": "right"}])
    wrong = partial(list, [{"verdict": "right"}, {"verdict": case.WRONG}])
    failed = partial(list, [{"ratio": f"{case.FAILED}: no compiler"}])
    assert run_facts(checks, monkeypatch, tmp_path, fails, right) == 1
    assert capsys.readouterr().out.endswith("failed or wrong:\nfacts/case 0\n")
    assert run_facts(checks, monkeypatch, tmp_path, wrong, right, failed) == 1
    assert [line["case"] for line in lines(tmp_path)] == ["case 0", "case 1", "case 0", "case 2"]
    assert run_facts(checks, monkeypatch, tmp_path, right, right, right) == 0  # tried again
    assert [line["case"] for line in lines(tmp_path)[4:]] == ["case 0", "case 2"]


def test_after_a_restart_failed_cases_are_skipped_and_reported(tmp_path, checks, monkeypatch):
    def fails():
        raise RuntimeError("no kernel")

    right = partial(list, [{"verdict": "right"}])
    monkeypatch.setenv("GPU_CHECKS_FAILED", "facts/case 0")
    assert run_facts(checks, monkeypatch, tmp_path, fails, right) == 1
    assert [line["case"] for line in lines(tmp_path)] == ["case 1"]


@pytest.mark.parametrize(
    ("fitting", "at_once"),
    [([2, 2, 2], "2"), ([1, 1, 1], "2; 1 from step 1 on"), ([2, 2, 1], "2; 1 from step 3 on")],
)
def test_as_many_seeds_are_trained_as_the_time_allows(
    fitting, at_once, tmp_path, checks, monkeypatch
):
    case, full = checks("gpu_checks.case"), checks("gpu_checks.full")
    setting = case.Setting(gpu_device(), tmp_path, tmp_path, time.monotonic() + 100, tiny=True)
    members = two_seeds(setting, case, full)
    monkeypatch.setattr(full, "CHECK_INTERVAL", 1)
    counts = iter(fitting)
    monkeypatch.setattr(full, "_count_fitting", lambda needed, left, count: next(counts))
    rows = full._train(setting, members, 100)
    seeds = range(fitting[-1])
    assert [(row["seed"], row["at once"], row["steps"]) for row in rows] == [
        (seed, at_once, 4) for seed in seeds
    ]


def test_trainings_that_cannot_end_in_time_stop(tmp_path, checks, monkeypatch):
    case, full = checks("gpu_checks.case"), checks("gpu_checks.full")
    setting = case.Setting(gpu_device(), tmp_path, tmp_path, time.monotonic() + 100, tiny=True)
    monkeypatch.setattr(full, "CHECK_INTERVAL", 1)
    with pytest.raises(RuntimeError):
        full._train(setting, two_seeds(setting, case, full), limit=0.0)


def test_only_the_first_steps_are_held_to_the_limit_of_a_case(tmp_path, checks, monkeypatch):
    case, full = checks("gpu_checks.case"), checks("gpu_checks.full")
    setting = case.Setting(gpu_device(), tmp_path, tmp_path, time.monotonic() + 100, tiny=True)
    monkeypatch.setattr(full, "CHECK_INTERVAL", 1)
    left = []
    monkeypatch.setattr(
        full, "_count_fitting", lambda needed, seconds, count: left.append(seconds) or count
    )
    full._train(setting, two_seeds(setting, case, full), limit=20.0)
    assert left[0] < 20 < min(left[1:])


def two_seeds(setting, case, full):
    recipe = case.cifar_recipe(setting, "cifar-resnet20")
    return [(full.with_seed(recipe, seed), "cifar-resnet20", seed) for seed in range(2)]


def test_the_first_recipe_is_repeated_without_compiled_blocks_if_it_failed(tmp_path, checks):
    case, full = checks("gpu_checks.case"), checks("gpu_checks.full")
    setting = case.Setting(gpu_device(), tmp_path, tmp_path, time.monotonic() + 100, tiny=True)
    with pytest.raises(case.Skipped):
        full.first(setting)[1].run()
    failed = dataclasses.replace(setting, failed={f"first/{full.FIRST}"})
    (row,) = full.first(failed)[1].run()
    assert row["mode"] == full.GRAPH


def test_missing_data_is_reported_and_an_error(tmp_path, checks, monkeypatch, capsys):
    case, supervisor = checks("gpu_checks.case"), checks("gpu_checks.supervisor")
    monkeypatch.setattr(supervisor, "enable_traces", lambda: None)

    def reads(setting):
        return [case.Case("reads", 1, lambda: [{"size": setting.file("a.tar").stat().st_size}])]

    monkeypatch.setattr(checks("gpu_checks.facts"), "cases", reads)
    options = [each for each in arguments(tmp_path, "--only", "facts") if each != "--tiny"]
    gpu = checks("gpu")
    assert gpu.run_cases(gpu.parse(options)) == 1
    assert str(tmp_path / "a.tar") in capsys.readouterr().out
    (tmp_path / "a.tar").write_bytes(b"123")
    assert gpu.run_cases(gpu.parse(options)) == 0


CASES = """
import os, signal, sys, time
sys.path.insert(0, {benchmarks!r})
import gpu
from gpu_checks import facts, supervisor
from gpu_checks.case import Case

gpu.LEAST, supervisor.GRACE = 0.2, 0.5

def hangs():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as in a call outside of Python
    time.sleep(1000)

right = Case("right", 0.1, lambda: [dict(ms=1.5)])
cases = [Case("crashes", 0.1, os.abort), Case("hangs", 0.1, hangs), right]
facts.cases = lambda setting: cases
sys.exit(gpu.main())
"""


@pytest.mark.slow  # three processes that import torch
def test_a_case_that_crashes_or_hangs_is_recorded_and_the_others_run(tmp_path):
    script = tmp_path / "cases.py"
    script.write_text(CASES.format(benchmarks=str(SCRIPT.parent)))
    command = [sys.executable, script, *arguments(tmp_path, "--only", "facts")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr
    assert done.stdout.endswith("failed or wrong:\nfacts/crashes\nfacts/hangs\n")
    crashed, hung, right = lines(tmp_path)
    assert crashed["error"].startswith("Crashed")
    assert hung["error"].startswith("Hung")
    assert "in hangs" in hung["traceback"]
    assert right["rows"] == [{"ms": 1.5}]


def test_tiny_results_are_neither_done_nor_published(tmp_path, checks, monkeypatch, capsys):
    record, tables = checks("gpu_checks.record"), checks("result_tables")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    monkeypatch.setattr(tables, "pages", list)
    path = tmp_path / "gpu.jsonl"
    tiny = record.Record(path, "a machine", tiny=True)
    tiny.add("ladder", "a", 1.0, [{"ms": 0.1}], None)
    assert tiny.is_done("ladder", "a")
    real = record.Record(path, "a machine")
    assert not real.is_done("ladder", "a")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--publish", str(path)])
    assert checks("gpu").main() == 1
    assert "nothing to publish" in capsys.readouterr().out
    real.add("ladder", "b", 1.0, [{"ms": 1.5}], None)
    tiny.add("ladder", "b", 1.0, [{"ms": 0.2}], None)
    assert checks("gpu").main() == 0
    assert "2 of 3 lines, of --tiny" in capsys.readouterr().out
    assert tables.load("gpu-ladder").rows == [[1.5]]
    with path.open("a") as file:  # of before lines said their size
        old = {key: value for key, value in lines(tmp_path)[0].items() if key != "tiny"}
        file.write(json.dumps(old) + "\n")
    assert not record.Record(path, "a machine").is_done("ladder", "a")
    record.publish(path)
    assert tables.load("gpu-ladder").rows == [[1.5]]


def test_whole_recipes_are_not_repeated_at_a_later_commit(tmp_path, checks):
    gpu, case, record = (checks(name) for name in ("gpu", "gpu_checks.case", "gpu_checks.record"))
    earlier = record.Record(tmp_path / "gpu.jsonl", "a machine", tiny=True)
    earlier.commit = "0" * 40
    setting = case.Setting(gpu_device(), tmp_path, tmp_path, time.monotonic() + 100, tiny=True)
    made = [
        (name, each) for name in gpu.SECTIONS for each in gpu.make_cases(name, setting, earlier)
    ]
    for section, each in made:
        earlier.add(section, each.name, 1.0, [{"ms": 1.5}], None)
    later = record.Record(tmp_path / "gpu.jsonl", "a machine", tiny=True)
    done = {
        section
        for section, each in made
        if later.is_done(section, each.name, any_commit=each.any_commit)
    }
    assert done == {"first", "full"}
    real = case.Setting(gpu_device(), tmp_path, tmp_path, time.monotonic() + 100, tiny=False)
    assert all(each.any_commit for each in gpu.make_cases("full", real, later))


def test_a_case_is_stopped_at_the_limit_where_errors_are_caught(tmp_path, checks):
    gpu, case, record = (checks(name) for name in ("gpu", "gpu_checks.case", "gpu_checks.record"))
    setting = case.Setting(gpu_device(), tmp_path, tmp_path, time.monotonic(), tiny=True)
    results = record.Record(tmp_path / "gpu.jsonl", "a machine")

    def hangs():
        with contextlib.suppress(Exception):  # as commands do
            time.sleep(100)
        return [{"ms": 1.5}]

    assert gpu.run_case(setting, results, "s", case.Case("a", 1, hangs))
    assert lines(tmp_path)[0]["error"].startswith("TimeLimit")


def test_an_error_of_cuda_is_recognized_behind_another(checks):
    case = checks("gpu_checks.case")
    error = ValueError("no graph")
    error.__cause__ = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert case.is_fatal(error)
    assert not case.is_fatal(ValueError("no graph"))


def test_metadata_replaces_an_installation(tmp_path, checks, monkeypatch):
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    installed = metadata.distributions
    monkeypatch.setattr(metadata, "distributions", lambda **_: ())
    checks("gpu").add_metadata(tmp_path)
    (found,) = installed(name="resnets", path=[str(tmp_path)])
    assert found.version[0].isdigit()


def gpu_device():
    import torch

    return torch.device("cpu")


def test_results_become_tables(tmp_path, checks, monkeypatch):
    record, tables = checks("gpu_checks.record"), checks("result_tables")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    monkeypatch.setattr(tables, "pages", list)
    results = record.Record(tmp_path / "gpu.jsonl", "a machine")
    results.add("ladder", "a", 1.0, None, "out of memory")
    results.add("ladder", "a", 1.0, [{"way": "eager", "ms": 1.5}], None)
    results.add("ladder", "b", 1.0, None, "no kernel")
    results.add("resnet50", "c", 1.0, [{"who": "timm", "ratio": "1.5"}], None)
    failed = f"{checks('gpu_checks.case').FAILED}: out of memory"
    results.add("resnet50", "c", 1.0, [{"who": "timm", "ratio": failed}], None)
    names = ["gpu-ladder.json", "gpu-resnet50.json"]
    assert record.publish(tmp_path / "gpu.jsonl") == [tmp_path / name for name in names]
    assert tables.load("gpu-resnet50").rows == [["timm", "1.5"]]
    result = tables.load("gpu-ladder")
    assert result.columns == ["way", "ms"]
    assert result.rows == [["eager", 1.5], ["b", "failed: no kernel"]]
    assert result.hardware == "a machine"


def test_a_table_is_of_one_machine_and_names_its_commits(tmp_path, checks, monkeypatch, capsys):
    record, tables = checks("gpu_checks.record"), checks("result_tables")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    monkeypatch.setattr(tables, "pages", list)
    for hardware, commit, case in (("A", "1", "a"), ("B", "1", "b"), ("A", "2", "c")):
        monkeypatch.setattr(record, "commit", lambda commit=commit: commit)
        results = record.Record(tmp_path / "gpu.jsonl", hardware)
        results.add("ladder", case, 1.0, [{"way": case}], None)
    record.publish(tmp_path / "gpu.jsonl")
    result = tables.load("gpu-ladder")
    assert (result.hardware, result.commit, result.rows) == ("A", "1, 2", [["a"], ["c"]])
    assert "B" in capsys.readouterr().out


def test_a_wrong_gradient_of_an_operator_is_wrong(checks):
    correct, case = checks("gpu_checks.correct"), checks("gpu_checks.case")
    for errors, is_right in (
        ((1e-6, 1e-5), True),
        ((1e-6, 0.1), False),
        ((float("nan"), 0.0), False),
    ):
        row = correct._make_row("convolution", "float32", *errors, 1e-5, 1e-4)
        assert case.is_right([row]) is is_right
