"""Grids: what they accept, and that real ones survive kills, stops, failures and restarts."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import forked
import pytest
import torch
from paths import HELPERS
from study_runs import pretend_two_gpus
from torch import nn

from resnets.cli.main import main
from resnets.config import ConfigError, DataSpec, Recipe, from_toml
from resnets.data import DataError
from resnets.models import build
from resnets.study.depth.presets import depth_grid, paper_cifar10, paper_imagenet, shortcut_grid
from resnets.study.grid import budget
from resnets.study.grid.budget import Survey, parse_budget, set_steps, survey_grid
from resnets.study.grid.cells import (
    Grid,
    cell_recipe,
    read_cell,
    read_cells,
    read_grid,
    sort_cells,
    write_grid,
)
from resnets.study.grid.grid import train_grid
from resnets.study.grid.model_names import model_spec
from resnets.study.grid.worker import choose_slots, estimate_cell_bytes, train_cell
from resnets.study.run import run_study
from resnets.train import run as training
from resnets.train import saver
from resnets.train.run import run_training
from resnets.train.tasks import classification
from resnets.utils.errors import OutOfMemory
from resnets.utils.files.locks import lock_folder

TINY = Grid(
    models=("cifar-plain8", "cifar-resnet8"),
    seeds=(1, 1),
    data="digits",
    recipe="digits",
    budget="25it",
    settings=("checkpoint_every=5it", "precision=float32"),
    iterations=25,
    epoch=20,
)


def changed(**fields):
    return dataclasses.replace(TINY, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": (1, 0)}, "seeds: 0 must be at least 1"),
        ({"seeds": (1,)}, "1 numbers for 2 models"),
        ({"models": (), "seeds": ()}, "name at least one"),
        ({"models": ("cifar-plain8", "cifar-plain8")}, "cifar-plain8 is named twice"),
        ({"models": ("resnet34:A", "resnet34-a")}, "is named twice"),
        ({"models": ("cifar-plain8", "resnet18")}, "two families"),
        ({"models": ("cifar-plain8", "cifar-resnet57")}, "did you mean cifar-resnet56"),
        ({"models": ("cifar-plain8", "cifar-resnet8:D")}, "unknown shortcut option 'D'"),
        ({"models": ("cifar-plain8", "cifar-plain8:A")}, "no shortcuts to choose"),
    ],
)
def test_invalid_grids_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        changed(**fields)


def test_grid_survives_its_file(tmp_path):
    write_grid(TINY, tmp_path)
    assert read_grid(tmp_path) == TINY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no study here"),
        ("seeds = [", "cannot be read"),
        ("depths = 3", "unknown field depths"),
    ],
)
def test_files_that_are_not_a_study(tmp_path, text, message):
    if text is not None:
        (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_grid(tmp_path)


@pytest.mark.parametrize(
    "net", ["cifar-plain20", "cifar-resnet20:B", "cifar-resnet164", "resnet50:C", "vgg16-bn"]
)
def test_depth_counts_the_layers_of_the_real_network(net):
    model = build(model_spec(net))
    weighted = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in name
    ]
    assert model_spec(net).num_layers == len(weighted)


def test_cell_recipe_is_the_grids():
    grid = changed(models=("cifar-plain8", "cifar-resnet8:B"), settings=("optim.lr=0.3",))
    recipe = cell_recipe(grid, "cifar-resnet8:B", 4)
    assert (recipe.model.name, recipe.model.shortcut) == ("cifar-resnet8:B", "B")
    assert (recipe.seed, recipe.duration, recipe.data.source) == (4, "25it", "digits")
    assert recipe.optim.lr == 0.3
    assert recipe.eval.watch_test
    plain = cell_recipe(grid, "cifar-plain8", 4)
    assert plain.model.shortcut == "none"
    assert dataclasses.replace(plain, model=recipe.model) == recipe


def test_last_training_row_covers_a_whole_interval():
    """The final error must not rest on the few steps left over from the row before."""
    recipe = cell_recipe(changed(iterations=2001, epoch=391), "cifar-plain8", 0)
    every = int(recipe.log_every.removesuffix("it"))
    assert 80 <= every <= 120
    assert 2001 % every > 0.7 * every


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=3", "use --seeds"),
        ("duration=5it", "use --budget"),
        ("data.source=cifar10", "use --data"),
        ("model.shortcut=B", "cifar-resnet20:B"),
        ("optim.lr", "path=value"),
        ("optim.lrr=1", "did you mean optim.lr"),
    ],
)
def test_settings_that_do_not_fit(setting, message):
    with pytest.raises(ConfigError, match=message):
        cell_recipe(changed(settings=(setting,)), "cifar-plain8", 0)


def test_paper_presets_are_the_papers():
    grid = paper_cifar10()
    seeds = dict(zip(grid.models, grid.seeds, strict=True))
    assert seeds["cifar-resnet110"] == 5
    assert sum(grid.seeds) == 15
    assert "cifar-plain110" in seeds
    assert "cifar-resnet1202" in seeds
    recipe = cell_recipe(dataclasses.replace(grid, iterations=64000, epoch=391), grid.models[0], 0)
    assert (recipe.batch_size, recipe.optim.lr, recipe.duration) == (128, 0.1, "64000it")
    imagenet = paper_imagenet()
    assert [model_spec(net).shortcut for net in imagenet.models] == ["none", "none", "A", "A"]


def test_preset_parts_can_be_replaced():
    grid = depth_grid(
        "paper-cifar10", models=("cifar-plain20", "cifar-resnet110"), budget="32000it"
    )
    assert grid.seeds == (1, 5)
    assert (grid.budget, grid.recipe, grid.data) == ("32000it", "cifar10-paper", "cifar10")
    assert depth_grid("quick", seeds=2).seeds == (2,) * 4
    with pytest.raises(ConfigError, match="did you mean quick"):
        depth_grid("quik")
    with pytest.raises(ConfigError, match="name the models"):
        depth_grid()


def test_shortcut_grid_has_every_option():
    grid = shortcut_grid(models=("resnet34", "plain34", "resnet18:B"))
    assert grid.models == ("resnet34:A", "resnet34:B", "resnet34:C", "plain34", "resnet18:B")
    assert (grid.study, grid.recipe) == ("shortcuts", "digits")  # the default data


def test_parse_budget():
    assert parse_budget("2000it") == (2000, "it")
    assert parse_budget("1.5min") == (1.5, "min")
    for text in ("2000", "0it", "5h", "-3ep", "min"):
        with pytest.raises(ConfigError, match="is not a budget"):
            parse_budget(text)


def test_steps_are_timed_for_every_network(monkeypatch):
    # By this process's own seconds of the CPU, which nobody else's work makes longer.
    monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=time.process_time))
    found = survey_grid(changed(models=("cifar-plain8", "cifar-resnet56")), "cpu", timed=True)
    assert found.examples == 1269
    assert found.seconds["cifar-resnet56"] > found.seconds["cifar-plain8"] > 0


def test_training_order_starts_with_the_deepest_network_of_the_first_seed(tmp_path):
    nets = ("cifar-plain8", "cifar-resnet20", "cifar-resnet14")
    write_grid(changed(models=nets, seeds=(2, 1, 2)), tmp_path)
    order = [(cell.depth, cell.seed) for cell in sort_cells(read_cells(tmp_path), jobs=2)]
    assert order == [(20, 0), (14, 0), (8, 0), (14, 1), (8, 1)]


def test_slots_share_the_cores():
    assert len(choose_slots(TINY, None, "cpu", cells=1)) == 1
    three = choose_slots(TINY, 3, "cpu", cells=5)
    assert {slot.device for slot in three} == {"cpu"}
    assert sum(slot.threads for slot in three) <= max(3, torch.get_num_threads())
    with pytest.raises(ConfigError, match="jobs 0"):
        choose_slots(TINY, 0, "cpu", cells=5)


@pytest.mark.parametrize(("memory", "each"), [(3.5, 2), (100, 4), (0.1, 1)])
def test_a_gpu_trains_as_many_cells_as_its_memory_and_the_cores_allow(memory, each, monkeypatch):
    pretend_two_gpus(monkeypatch, memory=int(memory * estimate_cell_bytes(TINY)), cores=8)
    found = choose_slots(TINY, None, "auto", cells=99)
    assert Counter(slot.device for slot in found) == {"cuda:0": each, "cuda:1": each}


def test_the_memory_of_a_cell_grows_with_depth_and_batch():
    deep = changed(models=("cifar-resnet110",), seeds=(1,))
    large = changed(models=deep.models, seeds=(1,), settings=("batch_size=512",))
    assert estimate_cell_bytes(TINY) < estimate_cell_bytes(deep) < estimate_cell_bytes(large)


def test_finished_and_failed_cells_are_left_alone(tmp_path):
    write_grid(TINY, tmp_path)
    good, bad = read_cells(tmp_path)
    train_cell(cell_recipe(TINY, "cifar-plain8", 0), good.folder, "cpu")
    wild = changed(settings=(*TINY.settings, "optim.lr=1e6", "log_every=5it"))
    train_cell(cell_recipe(wild, "cifar-resnet8", 0), bad.folder, "cpu")
    good, bad = read_cells(tmp_path)
    assert (good.status, bad.status) == ("done", "failed")
    assert good.last("train")["step"] == 25
    assert good.best("test")["top1_error"] <= good.last("test")["top1_error"]
    assert bad.error.startswith("the loss is nan at step")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    train_cell(cell_recipe(TINY, "cifar-plain8", 0), good.folder, "cpu")
    train_cell(cell_recipe(TINY, "cifar-resnet8", 0), bad.folder, "cpu")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (classification, "keep_on_device"),
        (classification, "TrainStream"),
        (training, "choose_plan"),
        (saver.Snapshot, "copy"),
    ],
)
def test_a_cell_without_memory_has_failed_wherever_it_runs_out(where, name, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(where, name, fail)
    train_cell(cell_recipe(TINY, "cifar-plain8", 0), tmp_path / "cell", "cpu")
    failed = json.loads((tmp_path / "cell" / "failed.json").read_text())
    assert failed["error"].startswith("out of memory: ")


def test_a_checkpoint_that_does_not_fit_on_the_device_is_out_of_memory(tmp_path, monkeypatch):
    recipe = cell_recipe(TINY, "cifar-plain8", 0)
    run_training(recipe, tmp_path, device="cpu", quiet=True)

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(saver, "load_weights", fail)
    with pytest.raises(OutOfMemory, match="the state of the checkpoint does not fit on cpu"):
        run_training(None, tmp_path, device="cpu", quiet=True)


def test_a_missing_disk_is_not_a_failure_of_a_cell(tmp_path):
    recipe = cell_recipe(changed(data=str(tmp_path / "unmounted")), "cifar-plain8", 0)
    with pytest.raises(DataError, match="unmounted"):
        train_cell(recipe, tmp_path / "cell", "cpu")
    assert not (tmp_path / "cell").exists()


def test_a_failed_cell_does_not_stop_the_grid(tmp_path, capfd):
    """One cell's checkpoints are cut in half; the other is trained, and the reason is said."""
    write_grid(TINY, tmp_path)
    broken = read_cell(tmp_path, "cifar-resnet8", 0).folder
    run_training(cell_recipe(TINY, "cifar-resnet8", 0), broken, device="cpu", quiet=True)
    (broken / "result.json").unlink()
    for each in (broken / "checkpoints").iterdir():
        each.write_bytes(each.read_bytes()[:1000])
    plain, residual = train_grid(TINY, tmp_path, jobs=1, device="cpu")
    assert plain.status == "done"
    assert residual.status == "running"  # the disk may be mended, and the file come back
    assert not (broken / "failed.json").exists()
    said = capfd.readouterr().err
    assert f"cifar-resnet8-seed0: {broken / 'checkpoints' / 'last.safetensors'}: truncated" in said
    assert "Traceback" not in said


def test_another_grid_or_a_mixed_one_is_refused(tmp_path):
    write_grid(TINY, tmp_path)
    with pytest.raises(ConfigError, match="'digits'.*'cifar10"):
        train_grid(changed(recipe="cifar10-fast"), tmp_path)
    other = cell_recipe(changed(settings=("optim.lr=0.2",)), "cifar-plain8", 0)
    folder = read_cell(tmp_path, "cifar-plain8", 0).folder
    run_training(other, folder, device="cpu", quiet=True)
    with pytest.raises(ConfigError, match=r"optim\.lr = 0\.2.*0\.1"):
        train_grid(TINY, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="contains no study"):
        train_grid(TINY, tmp_path / "other")


def test_rows_that_an_earlier_version_spaced_otherwise_are_of_the_same_grid(tmp_path):
    write_grid(TINY, tmp_path)
    recipe = dataclasses.replace(cell_recipe(TINY, "cifar-plain8", 0), log_every="3it")
    assert recipe.log_every != cell_recipe(TINY, "cifar-plain8", 0).log_every
    run_training(recipe, read_cell(tmp_path, "cifar-plain8", 0).folder, device="cpu", quiet=True)
    train_grid(TINY, tmp_path)
    assert read_cell(tmp_path, "cifar-plain8", 0).status == "done"
    assert read_cell(tmp_path, "cifar-resnet8", 0).status == "done"


def test_a_study_of_an_earlier_version_keeps_its_rules_and_old_names_of_fields_are_read(tmp_path):
    write_grid(TINY, tmp_path)
    lines = (tmp_path / "study.toml").read_text().splitlines()
    old = [line.replace("models", "nets") for line in lines if not line.startswith("version")]
    assert len(old) == len(lines) - 1
    (tmp_path / "study.toml").write_text("\n".join(old))
    recipe = cell_recipe(read_grid(tmp_path), "cifar-plain8", 0)
    assert (recipe.data.split_rule, recipe.data.overlap) == ("rank", "allow")
    assert cell_recipe(TINY, "cifar-plain8", 0).data.split_rule == "identity"
    assert read_grid(tmp_path).requested == TINY.requested


def test_one_study_is_trained_by_one_process(tmp_path):
    write_grid(TINY, tmp_path)
    with lock_folder(tmp_path), pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
        run_study(TINY, tmp_path, jobs=1, device="cpu")


TIMED = Survey(examples=1259, seconds={"cifar-plain8": 0.05, "cifar-resnet8": 0.15})


@pytest.mark.parametrize(
    ("budget", "iterations"), [("25it", 25), ("3ep", 59), ("5min", 1250), ("10min", 2600)]
)
def test_budgets_become_steps(budget, iterations):
    """One step of both runs takes 0.2 s; of 300 s, a tenth is kept back, and 2 x 10 s to start."""
    fixed = set_steps(changed(budget=budget, iterations=0, epoch=0), TIMED, jobs=1)
    assert (fixed.iterations, fixed.epoch) == (iterations, 20)
    assert fixed.requested == changed(budget=budget).requested


def test_minutes_are_for_the_whole_grid():
    """Twice the workers do about twice the steps, three times the seeds a third."""
    steps = set_steps(changed(budget="30min"), TIMED, jobs=1).iterations
    assert set_steps(changed(budget="30min"), TIMED, jobs=2).iterations == pytest.approx(
        2 * steps, rel=0.02
    )
    more = set_steps(changed(budget="30min", seeds=(3, 3)), TIMED, jobs=1).iterations
    assert more == pytest.approx(steps / 3, rel=0.05)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("19it", "19 steps for each of 2 runs, too few .* takes 20; give 20it"),
        ("0.5ep", "10 steps .* give 1ep"),
        ("0.2min", "0 steps .* give 1min"),
    ],
)
def test_budgets_too_small_to_mean_anything(budget, message):
    with pytest.raises(ConfigError, match=message):
        set_steps(changed(budget=budget), TIMED, jobs=1)


STUDY = [
    "study", "depth", "--models", "cifar-plain8,cifar-resnet14", "--data", "digits",
    "--recipe", "digits", "--seeds", "1", "--budget", "100it", "--jobs", "2",
    "--set", "checkpoint_every=5it", "--set", "precision=float32", "--device", "cpu",
]  # fmt: skip


def start_held(step, *words):
    """The command, whose deep net goes no farther than `step` until it is asked to stop."""
    held = [str(HELPERS / "pause_at_step.py"), "cifar-resnet14-seed0", str(step)]
    return forked.Popen(
        [sys.executable, *held, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(folder, step, process):
    """Wait until the shallow net is done and the deep one has a row at `step`."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "study.toml").exists():
            plain, residual = read_cells(folder)
            if plain.status == "done" and residual.rows and residual.rows[-1]["step"] >= step:
                return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"step {step} not reached: {process.communicate()}")


def errors(cell):
    """What the cell's rows say, without the time it took."""
    return [
        (row["kind"], row["step"], row["loss"], row["top1_error"])
        for row in cell.rows
        if "loss" in row
    ]


@pytest.mark.ci
@pytest.mark.timeout(900)
def test_stopped_killed_and_restarted(tmp_path, capfd, monkeypatch):
    """SIGTERM, --resume, SIGKILL, the first command again: nothing repeated, no row twice."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "study"
    process = start_held(30, *STUDY, "--out", str(folder))
    wait_for_step(folder, 20, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert f"resume with: resnets study depth --resume {folder}" in out
    plain, stopped = read_cells(folder)
    assert (plain.status, stopped.status) == ("done", "running")

    process = start_held(70, "study", "depth", "--resume", str(folder), "--device", "cpu")
    wait_for_step(folder, 60, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # returns once its orphaned worker has saved and ended
    killed = read_cells(folder)[1]
    assert killed.status == "running"

    assert main([*STUDY, "--out", str(folder)]) == 0
    assert "cifar-resnet14-seed0: training, resumed at step" in capfd.readouterr().err
    assert read_cells(folder)[0] == plain
    end = read_cells(folder)[1]
    assert end.status == "done"
    for before in (stopped, killed):
        assert errors(end)[: len(errors(before))] == errors(before)
    steps = [row["step"] for row in end.rows if row["kind"] == "train"]
    assert steps == [20, 40, 60, 80, 100]
    assert from_toml(end.folder / "recipe.toml").model.num_classes == 10
    assert (folder / "report.html").is_file()


def test_steps_are_timed_in_the_precision_of_the_runs(monkeypatch) -> None:
    class Picked(Exception):  # noqa: N818
        pass

    def pick(requested, device, *, keep_bits=False):
        raise Picked(requested, keep_bits)

    monkeypatch.setattr(budget, "pick_precision", pick)
    data = DataSpec(source="stacks", size=8, channels=5, keep_bits=True)
    with pytest.raises(Picked, match=r"'auto', True"):
        budget.time_step(nn.Identity(), None, Recipe(data=data), None, torch.device("cpu"))


def test_embedded_digits_are_not_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()  # of `resnets train digits --out digits`
    monkeypatch.chdir(tmp_path)
    assert depth_grid(models=["cifar-resnet8"], budget="10it").data == "digits"
