"""Training on real digits and on a folder: results, run folder, golden losses, errors."""

import dataclasses
import json
import os
import shutil
import sysconfig

import pytest
import torch
from full_disk import fill_disk
from paths import GOLDEN
from torch import nn

import resnets
from resnets.config import ConfigError, from_toml, replace_fields, to_toml
from resnets.models import build, catalog
from resnets.ops import compiler
from resnets.recipes import recipe
from resnets.train.execution_plan import _missing_compiler, choose_plan
from resnets.train.guards.divergence import Diverged
from resnets.train.log.run_log import read_rows
from resnets.train.run import run_training
from resnets.utils.machine.precision import pick_precision
from resnets.weights.checkpoint.format import LAST, read_checkpoint
from resnets.weights.errors import CheckpointError

EXPECTED = GOLDEN / "first_losses.json"


def short(steps=20, net="cifar-resnet8", **changes):
    fields = {
        "duration": f"{steps}it",
        "precision": "float32",
        "eval.every": "10it",
        "log_every": "5it",
        "checkpoint_every": "10it",
    }
    return replace_fields(recipe("digits", net), fields | changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("job") / "run"
    return out, run_training(short(80), out, device="cpu", quiet=True)


def test_run_learns_and_says_how_it_was_measured(done):
    out, result = done
    assert json.loads((out / "result.json").read_text()) == result
    assert result["test"]["top1_error"] < 40  # chance is 90
    assert result["test"]["examples"] == 359
    for word in ("1 view", "16x16", "float32", "best.safetensors", "digits", "359 images"):
        assert word in result["test"]["protocol"]
    assert result["train"]["examples"] == 20 * 64  # draws, some images twice
    assert "1,280 draws from 1,269" in result["train"]["protocol"]
    assert result["images_per_second"] > 0


def test_run_folder_holds_what_it_should(done):
    out, _ = done
    present = {path.name for path in out.iterdir()}
    assert present >= {
        "recipe.toml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "curves.svg",
        "report.html",
        "result.json",
        "tensorboard",
    }
    stored = from_toml(out / "recipe.toml")
    meta = read_checkpoint(out / "checkpoints" / LAST).meta
    assert resnets.config.from_dict(resnets.config.Recipe, meta["recipe"]) == stored
    page = (out / "report.html").read_text()
    assert "<svg" in page
    page = page.replace('src="data:', "")  # images in the page itself
    assert not any(word in page for word in ("src=", "<link", "<script", "@import", "url(http"))


def test_tensorboard_reads_the_run(done):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _ = done
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("train/loss")}
    rows = {row["step"]: row["loss"] for row in read_rows(out) if row["kind"] == "train"}
    assert logged.keys() == rows.keys()
    assert logged[5] == pytest.approx(rows[5], rel=1e-5)


def test_load_gives_the_network_with_preprocessing(done):
    from sklearn.datasets import load_digits

    out, result = done
    net = resnets.load(out)
    assert not net.training
    assert net.classes == tuple("0123456789")
    images = (load_digits().images[:200] * (255 / 16)).astype("uint8")
    with torch.no_grad():
        logits = net(net.preprocess(list(images)))
    wrong = (logits.argmax(1) != torch.from_numpy(load_digits().target[:200])).float().mean()
    assert abs(100 * wrong.item() - result["test"]["top1_error"]) < 15


@pytest.mark.parametrize("net", ["cifar-resnet8", "cifar-plain8", "cifar-preact-resnet8"])
@pytest.mark.parametrize(
    ("precision", "kernels", "close"),
    [
        ("float32", True, 2e-4),
        ("float32", False, 2e-4),
        pytest.param("bfloat16", True, 1e-2, marks=pytest.mark.ci),
    ],
)
def test_first_losses_do_not_drift(net, precision, kernels, close, tmp_path, monkeypatch):
    """Golden numbers: initialisation, order, augmentation, step and optimizer all enter them."""
    settings = {"log_every": "1it", "model.name": net, "precision": precision}
    # They are of the share that the old rule left for training.
    plan = short(4, net, **settings, **{"data.split_rule": "rank"})
    if not kernels:
        monkeypatch.setattr(compiler, "load_library", lambda name: None)
    run_training(plan, tmp_path / "run", device="cpu", quiet=True)
    losses = [row["loss"] for row in read_rows(tmp_path / "run") if row["kind"] == "train"]
    golden = json.loads(EXPECTED.read_text())
    assert losses == pytest.approx(golden[net], rel=close)
    means = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert means["fused"] == (kernels and compiler.load_library("norm") is not None)


def test_same_seed_same_run_other_seed_other_run(tmp_path):
    def weights(name, seed):
        run_training(short(3, seed=seed), tmp_path / name, device="cpu", quiet=True)
        return read_checkpoint(tmp_path / name / "checkpoints" / LAST).group("model")

    first, again, other = weights("a", 0), weights("b", 0), weights("c", 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_divergence_names_step_checkpoint_and_remedies(tmp_path):
    plan = short(40, **{"optim.lr": 1e9, "schedule.kind": "constant", "checkpoint_every": "1it"})
    with pytest.raises(Diverged, match=r"optim\.lr"):
        run_training(plan, tmp_path / "run", device="cpu", quiet=True)
    last = tmp_path / "run" / "checkpoints" / LAST
    if last.exists():
        tensors = read_checkpoint(last).tensors
        assert all(value.isfinite().all() for value in tensors.values())


def test_a_diverged_network_is_not_measured(tmp_path):
    fields = {"optim.lr": 1e9, "schedule.kind": "constant", "eval.every": "3it"}
    with pytest.raises(Diverged, match=r"the loss on val is nan at step 3"):
        run_training(
            short(40, log_every="40it", **fields), tmp_path / "run", device="cpu", quiet=True
        )
    assert [row["step"] for row in read_rows(tmp_path / "run")] == [3]


@pytest.mark.ci
def test_each_epoch_has_its_training_error_and_ends_at_a_whole_epoch(tmp_path):
    """An epoch may be shorter than the interval of the log, and no whole number of steps."""
    plan = short(12, batch_size=512, log_every="100it", **{"eval.every": "1ep"})
    run_training(plan, tmp_path / "run", device="cpu", quiet=True)
    rows = read_rows(tmp_path / "run")
    steps = {
        kind: [row["step"] for row in rows if row["kind"] == kind] for kind in ("train", "val")
    }
    assert steps["train"] == steps["val"] == [r["step"] for r in rows if r["kind"] == "time"]
    length = rows[-1]["step"] / rows[-1]["epoch"]  # steps of an epoch
    assert length % 1
    ends = [round(number * length) for number in range(1, len(steps["val"]))]
    assert steps["val"] == [*ends, 12]


def test_no_validation_split_uses_the_last_weights(tmp_path):
    plan = short(10, **{"data.val_fraction": 0.0, "eval.watch_test": True})
    result = run_training(plan, tmp_path / "run", device="cpu", quiet=True)
    assert "val" not in result
    assert "last.safetensors (step 10" in result["test"]["protocol"]
    kinds = {row["kind"] for row in read_rows(tmp_path / "run")}
    assert kinds == {"train", "test", "time"}


def test_full_disk_ends_in_one_line(tmp_path, monkeypatch):
    out = tmp_path / "run"
    fill_disk(monkeypatch, LAST)
    with pytest.raises(CheckpointError, match="No space left on device"):
        run_training(short(10), out, device="cpu", quiet=True)


@pytest.mark.ci
def test_a_resumed_run_keeps_its_precision_and_says_what_differs(tmp_path, monkeypatch, capsys):
    """Started where the CPU multiplies bfloat16, resumed where "auto" means float32."""
    out = tmp_path / "run"
    monkeypatch.setattr("resnets.utils.machine.precision._cpu_has_bf16", lambda: True)
    kernel = compiler.load_library("norm") is not None
    run_training(short(2, precision="auto"), out, device="cpu", quiet=True)
    monkeypatch.setattr("resnets.utils.machine.precision._cpu_has_bf16", lambda: False)
    assert pick_precision("auto", torch.device("cpu")) == "float32"
    monkeypatch.setattr(compiler, "load_library", lambda name: None)
    run_training(None, out, device="cpu")
    assert json.loads((out / "environment.json").read_text())["precision"] == "bfloat16"
    output = " ".join(capsys.readouterr().err.split())
    assert " validation, bfloat16, " in output
    assert ("at step 2 (before: CPU kernels)" in output) == kernel


@pytest.mark.skipif(compiler.load_library("norm") is None, reason="no compiler, so no kernels")
def test_a_run_started_without_kernels_continues_without_them(tmp_path, monkeypatch):
    """Begun where the compiler failed: kernels that are there now would change its numbers."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "load_library", lambda name: None)
        run_training(short(12, checkpoint_every="6it"), whole, device="cpu", quiet=True)
    shutil.copytree(whole, out)
    (out / "checkpoints" / LAST).unlink()  # it goes on from step 6
    run_training(None, out, device="cpu", quiet=True)
    assert not json.loads((out / "environment.json").read_text())["fused"]
    first, second = (read_checkpoint(run / "checkpoints" / LAST).tensors for run in (whole, out))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_fit_memory_and_sync_norm_exclude_each_other_on_resume_too(tmp_path):
    (tmp_path / "recipe.toml").write_text(to_toml(short(2, sync_norm=True)))
    for go in (
        lambda: run_training(None, tmp_path, fit_memory=True),
        lambda: run_training(short(2, sync_norm=True), tmp_path / "new", fit_memory=True),
    ):
        with pytest.raises(ConfigError, match=r"--fit-memory: .*sync_norm"):
            go()
    assert os.listdir(tmp_path) == ["recipe.toml"]


def test_resume_keeps_the_network_of_the_checkpoint(done, tmp_path):
    out, _ = done
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    (other / "checkpoints" / LAST).write_bytes((out / "checkpoints" / LAST).read_bytes())
    from resnets.config import to_toml

    plan = short(80, "cifar-resnet14")
    plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, num_classes=10))
    (other / "recipe.toml").write_text(to_toml(plan))
    result = run_training(None, other, device="cpu", quiet=True)
    assert result["model"] == "cifar-resnet8"
    assert any("model.name is 'cifar-resnet14'" in each["note"] for each in result["history"])


@pytest.mark.parametrize("depth", [110, pytest.param(1202, marks=pytest.mark.slow)])
def test_resnet1202_recipe_recomputes_and_takes_a_step(tmp_path, depth):
    """Its recipe for 1,202 layers, with few images, and fewer
    layers where time is short."""
    plan = recipe("cifar10-paper", "cifar-resnet1202")
    assert plan.recompute
    plan = dataclasses.replace(plan, model=catalog.spec(f"cifar-resnet{depth}"))
    fields = {
        "data.source": "digits",
        "data.size": 16,
        "duration": "1it",
        "batch_size": 8,
        "data.normalize": "channel",
    }
    result = run_training(replace_fields(plan, fields), tmp_path / "run", device="cpu", quiet=True)
    assert result["model"] == f"cifar-resnet{depth}"
    assert result["train"]["loss"] > 0


@pytest.mark.slow
@pytest.mark.skipif(
    _missing_compiler(torch.device("cpu")) is not None, reason="compiling needs a C++ compiler"
)
def test_compiled_run_agrees_with_eager(tmp_path, monkeypatch):
    # Not what another version, or another processor's settings, left in the user's cache.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    losses = {}
    for compile_ in ("off", "on"):
        plan = short(3, log_every="1it", compile=compile_)
        run_training(plan, tmp_path / compile_, device="cpu", quiet=True)
        rows = read_rows(tmp_path / compile_)
        losses[compile_] = [row["loss"] for row in rows if row["kind"] == "train"]
        environment = json.loads((tmp_path / compile_ / "environment.json").read_text())
        assert environment["compiled"] == (compile_ == "on")
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-3)


def test_without_a_compiler_auto_falls_back_with_a_line_and_on_is_refused(monkeypatch, caplog):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(compiler, "load_library", lambda name: None)  # kernels need one too
    long = short(10**6, compile="auto")
    net = build(long.model)
    with caplog.at_level("WARNING", "resnets"):
        assert not choose_plan(long, net, 1269, "cpu").compiled
    assert "no C++ compiler" in caplog.text
    with pytest.raises(ConfigError, match="compile=on"):
        choose_plan(dataclasses.replace(long, compile="on"), net, 1269, "cpu")


@pytest.mark.parametrize("name", ["CXX", "PATH"])
def test_a_compiler_that_torch_does_not_call_is_none(monkeypatch, tmp_path, name):
    """torch calls $CXX, or g++ (clang++ on macOS): another one in PATH does not help."""
    other = tmp_path / "c++"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(name, str(tmp_path if name == "PATH" else tmp_path / "missing"))
    plan = short(1, compile="on")
    with pytest.raises(ConfigError, match=r"compile=on.*C\+\+"):
        choose_plan(plan, build(plan.model), 1269, "cpu")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "c++ -v")  # as "ccache g++": the first word is looked up
    assert "C++" not in (_missing_compiler(torch.device("cpu")) or "")


def test_without_the_headers_of_python_on_is_refused(monkeypatch, tmp_path):
    if _missing_compiler(torch.device("cpu")) is not None:
        pytest.skip("compiling needs a C++ compiler and Python.h")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    plan = short(1, compile="on")
    with pytest.raises(ConfigError, match=r"Python\.h"):
        choose_plan(plan, build(plan.model), 1269, "cpu")


def test_auto_compiles_long_runs_only_and_where_no_kernel_serves(monkeypatch):
    kernel = compiler.load_library("norm")
    assert choose_plan(recipe("digits"), nn.Identity(), 9, "cpu").fused == (kernel is not None)
    monkeypatch.setattr(compiler, "load_library", lambda name: None)

    plan = recipe("cifar10-fast")
    net = build(plan.model)
    long = choose_plan(plan, net, 50_000, "cpu")
    short_ = choose_plan(dataclasses.replace(plan, duration="50it"), net, 50_000, "cpu")
    assert not short_.compiled
    assert long.compiled == (_missing_compiler(torch.device("cpu")) is None)
