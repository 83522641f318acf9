"""Signals: the 1-D network, runs, resuming, prediction, files that are read or refused."""

import csv
import dataclasses
import zipfile

import numpy as np
import pytest
import torch
from machine_paths import paths_of_this_machine
from PIL import Image

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError, ModelSpec, SignalSpec, replace_fields
from resnets.data.errors import DataError
from resnets.models import build, catalog, cost
from resnets.recipes import recipe
from resnets.sequence.load import load_sequence_model
from resnets.sequence.predict import predict_signals
from resnets.sequence.signals import CBF, cylinder_bell_funnel, open_signals
from resnets.train.run import run_training
from resnets.weights.checkpoint.format import LAST, read_checkpoint
from resnets.weights.errors import CheckpointError

SHORT = {
    "duration": "24it",
    "checkpoint_every": "12it",
    "eval.every": "12it",
    "log_every": "12it",
    "schedule.kind": "constant",
    "schedule.warmup": 0,
    "optim.lr": 0.05,
}


def short(**fields):
    return replace_fields(recipe("signals"), SHORT | fields)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("signals") / "run"
    return out, run_training(short(), out, device="cpu", quiet=True)


FORMS = {
    "basic": {},
    "bottleneck": {"block": "bottleneck"},
    "plain": {"shortcut": "none"},
    "preact": {"block": "preact-basic", "shortcut": "A"},
    "gate": {"shortcut_gate": "exclusive"},
    "rezero": {"branch_scale": "rezero"},
    "stem": {"stem": "imagenet"},
    "no-norm": {"norm": "none"},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_signal_network_is_that_of_images_one_pixel_high(form):
    fields = {"stem": "cifar", "shortcut": "B", "depths": (1, 2), "widths": (4, 8)} | FORMS[form]
    spec = ModelSpec(stem_width=4, in_channels=2, num_classes=3, input_size=20, dims=1, **fields)
    torch.manual_seed(0)
    one = build(spec).eval()
    two = build(dataclasses.replace(spec, dims=2)).eval()
    weights = one.state_dict()
    for name, tensor in two.state_dict().items():
        if tensor.ndim == 4:  # the kernel's middle row; the others see zeros only
            wide = torch.zeros_like(tensor)
            wide[:, :, tensor.shape[2] // 2] = weights[name]
            tensor.copy_(wide)
        else:
            tensor.copy_(weights[name])
    x = torch.randn(2, 2, 20)
    torch.testing.assert_close(one(x), two(x[:, :, None]), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        counted = cost.count_cost(one)
    assert counted.parameters == sum(each.numel() for each in one.parameters())


@pytest.mark.parametrize(
    "fields", [{"norm": "group+ws"}, {"blur_pool": True}, {"branch_scale": "fixup", "norm": "none"}]
)
def test_what_exists_for_images_only_is_refused(fields):
    with pytest.raises(ConfigError, match=r"model\.dims"):
        build(catalog.spec("cifar-resnet8", dims=1, **fields))


def test_run_learns_and_evaluate_repeats_it(done):
    out, result = done
    test = result["test"]
    assert test["top1_error"] < 40  # of 67 by chance
    assert test["majority_error"] == pytest.approx(66.7, abs=5)
    low, high = test["top1_interval"]
    assert low <= test["top1_error"] <= high
    found = resnets.evaluate(out, quiet=True, device="cpu")
    assert found.metrics["top1_error"] == test["top1_error"]
    assert found.unit == result["data_summary"]["unit"] == "signals"
    model = resnets.load(out).train()
    assert resnets.evaluate(model, quiet=True, device="cpu") == found
    assert model.training
    assert "signals/s" in (out / "report.html").read_text(encoding="utf-8")


def test_a_resumed_run_ends_with_the_same_weights(done, tmp_path):
    out, _ = done
    half = tmp_path / "half"
    run_training(short(duration="12it"), half, device="cpu", quiet=True)
    run_training(None, half, duration="24it", device="cpu", quiet=True)
    one, other = (
        read_checkpoint(folder / "checkpoints" / LAST).group("model") for folder in (out, half)
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_network_standardizes_its_input(done):
    out, _ = done
    model, data = load_sequence_model(out), open_signals(short().data, SignalSpec())
    values = data.splits["train"].values
    torch.testing.assert_close(model.mean.flatten()[0], values.mean())
    torch.testing.assert_close(model.std.flatten()[0], values.std(correction=0))
    assert model.classes == ("bell", "cylinder", "funnel")


def test_predict_reads_files_with_and_without_labels(done, tmp_path, capsys):
    out, _ = done
    values, names = cylinder_bell_funnel(6, seed=1)
    np.save(tmp_path / "x.npy", values)
    for file, labeled in (("with.csv", True), ("without.csv", False)):
        with open(tmp_path / file, "w", newline="") as opened:
            rows = zip(values[:, 0].tolist(), names, strict=True)
            csv.writer(opened).writerows([*row, name] if labeled else row for row, name in rows)
    found = [
        [
            (each.row, each.name)
            for each in predict_signals(load_sequence_model(out), tmp_path / name)
        ]
        for name in ("x.npy", "with.csv", "without.csv")
    ]
    assert found[0] == found[1] == found[2]
    assert main(["predict", str(out), str(tmp_path / "x.npy"), "--csv", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "path,row,class,probability"
    assert [line.split(",")[2] for line in lines[1:]] == [name for _, name in found[0]]
    printed = [line.split(",")[:3] for line in lines[1:]]
    given = resnets.predict(out, tmp_path / "x.npy", device="cpu")
    assert [[str(each.path), str(each.row), each.name] for each in given] == printed
    model = resnets.load(out)
    in_memory = resnets.predict(model, [values[:4], values[4:, 0]], device="cpu")
    assert [each.name for each in in_memory] == [each.name for each in given]
    assert [str(each.path) for each in in_memory] == ["signals 0"] * 4 + ["signals 1"] * 2
    for options in ({"top_k": 1}, {"length": 9}, {"threshold": 0.9}, {"backend": "onnx"}):
        with pytest.raises(ConfigError, match=f"^{next(iter(options))}: "):
            resnets.predict(out, tmp_path / "x.npy", **options)
    with pytest.raises(ConfigError, match="images: Image is not a file of signals"):
        resnets.predict(out, Image.new("L", (8, 8)))
    np.save(tmp_path / "long.npy", values[:, :, :100])
    with pytest.raises(DataError, match="128"):
        predict_signals(load_sequence_model(out), tmp_path / "long.npy")


@pytest.mark.slow
def test_export_writes_a_verified_onnx_file(done, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    out, _ = done
    artifact = resnets.export(out, out=tmp_path / "signals.onnx", quiet=True)
    of_model = resnets.export(resnets.load(out).train(), out=tmp_path / "b.onnx", quiet=True)
    assert of_model.path.read_bytes() == artifact.path.read_bytes()
    assert max(each["relative"] for each in artifact.manifest["parity"]["batches"]) < 1e-4
    assert paths_of_this_machine(artifact.path) == []
    session = onnxruntime.InferenceSession(str(artifact.path))
    values, _ = cylinder_bell_funnel(9)
    logits = session.run(None, {"signals": values})[0]
    with torch.no_grad():
        expected = load_sequence_model(out)(torch.from_numpy(values))
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_export_of_signals_is_to_onnx_in_float32(done):
    with pytest.raises(ConfigError, match="onnx"):
        resnets.export(done[0], "openvino", quiet=True)
    with pytest.raises(ConfigError, match="onnx"):
        resnets.export(resnets.load(done[0]), precision="bfloat16", quiet=True)


def recording(path, *, header=True, steps=40):
    """Three channels; label a, then b, then a again, `steps` each."""
    random = np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(["x", "y", "label", "z"])
        for number in range(3 * steps):
            x, y, z = random.standard_normal(3)
            writer.writerow([x, y, "ab"[number // steps % 2], z])
    return path


def test_windows_of_a_recording_have_one_label_and_lie_in_one_split(tmp_path):
    path = recording(tmp_path / "r.csv")
    data = short(**{"data.source": str(path), "data.val_fraction": 0.2}).data
    found = open_signals(data, SignalSpec(window=4, stride=2, label="label"))
    assert found.classes == ("a", "b")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    whole = np.array([[float(row[name]) for name in "xyz"] for row in rows], np.float32)
    places = {}
    for role, part in found.splits.items():
        assert part.values.shape[1:] == (3, 4)
        places[role] = set()
        for window, label in zip(part.values.numpy(), part.labels.tolist(), strict=True):
            [start] = [s for s in range(117) if np.array_equal(whole[s : s + 4].T, window)]
            steps = range(start, start + 4)
            assert {rows[step]["label"] for step in steps} == {found.classes[label]}
            places[role] |= set(steps)
    assert not places["train"] & places["val"]
    assert not places["val"] & places["test"]


@pytest.mark.parametrize(
    ("content", "spec", "word"),
    [
        ("1,2,a\n1,x,b\n", SignalSpec(), "row 2"),
        ("1,2,a\n1,2,3,b\n", SignalSpec(), "columns"),
        ("1,2,a\n1,nan,b\n", SignalSpec(), "finite"),
        ("1,2,a\n3,4,a\n", SignalSpec(), "class"),
        ("1,2,a\n3,4,b\n", SignalSpec(label="kind"), "kind"),
        ("", SignalSpec(), "empty"),
        ("x,y,label\n", SignalSpec(), "header"),
        ("a\nb\n", SignalSpec(), "numbers"),
        ("1,2,a\n1,1e39,b\n", SignalSpec(), "finite"),
        ("1,2,a\n3,4,b\n", SignalSpec(window=2), "no training"),
    ],
)
def test_files_that_cannot_be_used_are_refused_with_the_place(tmp_path, content, spec, word):
    path = tmp_path / "s.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=word):
        open_signals(short(**{"data.source": str(path)}).data, spec)


def test_npz_files_need_x_and_y_of_one_length(tmp_path):
    values, names = cylinder_bell_funnel(30)
    path = tmp_path / "s.npz"
    np.savez(path, x=values[:, 0], y=np.array(names))
    data = short(**{"data.source": str(path)}).data
    found = open_signals(data, SignalSpec())
    assert sum(map(len, found.splits.values())) == 30
    assert torch.equal(
        found.splits["train"].values,
        open_signals(data, SignalSpec()).splits["train"].values,
    )
    np.savez(path, x=values, y=np.array(names[1:]))
    with pytest.raises(DataError, match="y has shape"):
        open_signals(data, SignalSpec())
    np.savez(path, signals=values)
    with pytest.raises(DataError, match="x and y"):
        open_signals(data, SignalSpec())
    for name in "xy":
        np.savez(path, **{"x": values, "y": np.array(names)} | {name: np.zeros(0)})
        with zipfile.ZipFile(path) as file:
            content = {each: file.read(each) for each in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:  # a member that is no array
            for member, stored in content.items():
                file.writestr(member, b"text" if member == f"{name}.npy" else stored)
        with pytest.raises(DataError, match="magic"):
            open_signals(data, SignalSpec())


def test_changed_signals_are_not_resumed(tmp_path):
    path = recording(tmp_path / "r.csv")
    fields = {"data.source": str(path), "signal.window": 8, "signal.label": "label"}
    run_training(
        short(duration="1it", batch_size=4, **fields), tmp_path / "run", device="cpu", quiet=True
    )
    recording(path, steps=41)
    with pytest.raises(CheckpointError, match="has changed"):
        run_training(None, tmp_path / "run", duration="2it", device="cpu", quiet=True)


def test_the_generated_set_is_the_same_each_time():
    one, other = cylinder_bell_funnel(9), cylinder_bell_funnel(9)
    assert np.array_equal(one[0], other[0])
    assert one[1][:3] == ["cylinder", "bell", "funnel"]
    assert open_signals(short(**{"data.source": CBF}).data, SignalSpec()).splits["train"]
