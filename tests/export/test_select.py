"""Selection of a runtime for a checkpoint, and the artifact cache."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import save_checkpoint

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.export import cache as cache_module
from resnets.export import select_backend
from resnets.export.cache import ArtifactCache, ArtifactKey, load_speed, save_speed
from resnets.export.select_backend import open_backend
from resnets.export.verify import VerificationError
from resnets.runtime.artifact import manifest_path
from resnets.runtime.base import describe_backend
from resnets.weights.checkpoint.format import read_checkpoint

pytest.importorskip("openvino")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of the test's own, with OpenVINO's artifact of `run` from the first test on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run(digits_run) -> str:
    return str(digits_run)


@pytest.fixture(scope="module")
def made(run) -> ArtifactCache:
    """What is kept of `run` in float32, once an endless stream of images has asked for it."""
    output: list[str] = []
    backend = open_backend(run, precision="float32", images=None, log=output.append)
    assert len(output) == 1
    assert "openvino float32" in output[0]
    entry = ArtifactCache(resnets.load(run), ArtifactKey("openvino", "float32"))
    assert entry.ready
    times = load_speed(entry.path)
    assert times is not None
    described = describe_backend(backend)
    assert f"{times:.2f}x" in described or f"{times:.1f}x" in described
    return entry


@pytest.fixture
def no_making(monkeypatch):
    def make(*_):
        raise AssertionError("it is there already")

    monkeypatch.setattr(ArtifactCache, "make", make)


def digits(count: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_few_images_stay_in_torch_without_a_message(run, no_making, precision):
    backend = open_backend(run, precision=precision, images=1000)
    assert backend.name.startswith("torch ")
    assert backend.note == ""


def test_an_executorch_program_in_the_run_folder_does_not_stop_a_prediction(
    run, no_making, tmp_path
):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    program = folder / "net.pte"
    program.write_bytes(b"")
    manifest_path(program).write_text("{}")
    assert open_backend(folder).name.startswith("torch ")


def test_a_cached_artifact_is_used_at_once_even_for_one_image(run, made, no_making):
    save_speed(made.path, 2.5)
    assert (
        cache_module._speed_file(made.path).stat().st_mode & 0o777 == 0o644
    )  # for all who share it
    backend = open_backend(run, precision="float32")
    torch_backend = open_backend(run, precision="float32", backend="torch")
    assert backend.name == "openvino float32"
    assert "2.5x" in backend.note
    assert backend.origin == torch_backend.origin == "last.safetensors (step 80)"
    for number in (1, 3, 5):
        found = [each.logits(digits(number)) for each in (backend, torch_backend)]
        np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3)


def test_a_slower_runtime_is_used_only_if_named(run, made, no_making, monkeypatch):
    save_speed(made.path, 0.6)
    assert open_backend(run, precision="float32").name.startswith("torch float32")
    # Where it pays to know, what was slower is timed again: other jobs may have been in its way.
    monkeypatch.setattr(select_backend, "measure_relative_speed", lambda *_: 0.5)
    backend = open_backend(run, precision="float32", images=None)
    assert backend.name.startswith("torch float32")
    assert "openvino float32 runs at 0.50x" in backend.note
    named = open_backend(run, precision="float32", backend="openvino")
    assert named.name == "openvino float32"


def test_a_damaged_artifact_is_made_again(run, made, monkeypatch):
    save_speed(made.path, 2.0)
    whole = Path(shutil.copytree(made.folder, made.folder.with_name(".whole")))
    weights = made.path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")

    def make(entry: ArtifactCache, where: str) -> None:
        assert not entry.folder.exists()
        whole.rename(entry.folder)

    monkeypatch.setattr(ArtifactCache, "make", make)
    assert open_backend(run, precision="float32").name == "openvino float32"


def test_other_weights_data_or_precision_are_another_entry(run, made, tmp_path):
    model, folders = resnets.load(run), {made.folder}
    data = tmp_path / "data.tar"
    for key in (
        ArtifactKey("openvino", "bfloat16"),
        ArtifactKey("onnx", "float32"),
        ArtifactKey("openvino", "int8", str(data)),
        ArtifactKey("openvino", "int8", str(data), 1.0),
    ):
        folders.add(ArtifactCache(model, key).folder)
    data.write_bytes(b"now it is there")
    folders.add(ArtifactCache(model, ArtifactKey("openvino", "int8", str(data))).folder)
    model.head.bias.data[0] += 1
    folders.add(ArtifactCache(model, ArtifactKey("openvino", "float32")).folder)
    assert len(folders) == 7


@pytest.mark.ci
def test_a_model_that_fails_verification_stays_in_torch_and_is_not_retried(
    run, tmp_path, monkeypatch
):
    last = read_checkpoint(Path(run, "checkpoints", "last.safetensors"))
    broken = dict(last.tensors)
    # Finite, but logits that overflow: no two runtimes can be compared.
    broken["model/head.weight"] = broken["model/head.weight"] * 1e38
    path = tmp_path / "broken.safetensors"
    save_checkpoint(path, broken, last.meta)
    first = open_backend(path, precision="float32", images=None)
    monkeypatch.setattr(ArtifactCache, "make", lambda *_: pytest.fail("tried again"))
    for backend in (first, open_backend(path, precision="float32", images=None)):
        assert backend.name.startswith("torch float32")
        assert "openvino: openvino float32 differs from broken" in backend.note
    with pytest.raises(VerificationError, match="differs from"):
        open_backend(path, precision="float32", backend="openvino")


def test_other_failures_are_retried(run, tmp_path, monkeypatch):
    """Such as a network that is away while a published model is fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entry = ArtifactCache(resnets.load(run), ArtifactKey("openvino", "float32"))
    with pytest.raises(VerificationError, match="no such run or checkpoint"):
        entry.make(str(tmp_path / "away"))
    assert entry.failure is None
    assert list(cache_module.cache_root().iterdir()) == []


def test_without_a_stored_speed_torch_is_used(run, made, monkeypatch):
    speeds = iter([2.0, None])
    monkeypatch.setattr(select_backend, "load_speed", lambda path: next(speeds))
    backend = open_backend(run, precision="float32")
    assert backend.name.startswith("torch float32")
    assert "openvino: speed is measured from" in backend.note


def test_a_cache_of_another_user_is_used(run, made, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    save_speed(made.path, 2.0)
    monkeypatch.setattr(os, "utime", refuse)
    assert open_backend(run, precision="float32").name == "openvino float32"
    monkeypatch.setattr(select_backend, "load_speed", lambda path: None)
    monkeypatch.setattr(select_backend, "save_speed", refuse)
    monkeypatch.setattr(select_backend, "measure_relative_speed", lambda *_: 2.0)
    backend = open_backend(run, precision="float32", images=None)
    assert backend.name == "openvino float32"
    assert "cannot store its speed (Permission denied)" in backend.note


def test_a_cache_that_cannot_be_written_costs_nothing_but_speed(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    backend = open_backend(run, precision="float32", images=None)
    assert backend.name.startswith("torch float32")
    assert "Not a directory" in backend.note


def test_the_least_recently_used_are_removed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for age in range(cache_module.MAX_ENTRIES + 3):
        folder = cache_module.cache_root() / f"entry{age}"
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    for name, age in ((".making-killed", 90_000), (".making-now", 10)):
        (cache_module.cache_root() / name).mkdir()
        os.utime(cache_module.cache_root() / name, (time.time() - age,) * 2)
    gone = (
        cache_module.cache_root() / "gone"
    )  # as what another process removes once it has been listed
    gone.symlink_to(tmp_path / "nowhere")
    cache_module._remove_old_entries()
    gone.unlink()
    left = {each.name for each in cache_module.cache_root().iterdir()}
    assert left == {".making-now", *(f"entry{age}" for age in range(cache_module.MAX_ENTRIES))}


def test_int8_next_to_the_checkpoint_is_selected_if_its_loss_was_measured(
    run, made, capsys, monkeypatch, tmp_path
):
    pytest.importorskip("nncf")
    run = str(shutil.copytree(run, tmp_path / "run"))
    words = ["export", run, "--to", "openvino", "--int8", "--calibrate", "digits"]
    assert main([*words, "--max-drop", "2"]) == 0
    out = Path(capsys.readouterr().out.split(":")[0])
    manifest = json.loads(manifest_path(out).read_text())

    def opened(**changes):
        errors = manifest["errors"] | {"top1_error_rise": changes.pop("rise", 0.25)}
        source = manifest["source"] | changes
        manifest_path(out).write_text(json.dumps(manifest | {"errors": errors, "source": source}))
        backend = open_backend(run, precision="auto")
        return backend.name.split(",")[0], backend.note

    save_speed(out, 4.0)  # whatever else the machine does
    name, note = opened()
    assert name == "openvino int8"
    assert note.startswith(out.name)
    assert "0.25 points" in note
    name, note = opened(rise=0.75)
    assert "int8" not in name
    assert f"{out.name} loses 0.75 points" in note
    name, note = opened(model_sha256="0" * 64)
    assert "int8" not in name
    assert "points" not in note  # it is of other weights
    assert open_backend(run, precision="float32").name.split()[1].startswith("float32")

    opened()
    save_speed(out, 2.0)
    save_speed(made.path, 3.0)
    monkeypatch.setattr(select_backend, "pick_precision", lambda *_: "float32")
    backend = open_backend(run)
    assert backend.name == "openvino float32"
    assert backend.note.endswith("3.0x torch's speed; openvino int8 runs at 2.00x")
    save_speed(out, 4.0)
    assert open_backend(run).name == "openvino int8"
    out.with_suffix(".bin").write_bytes(b"half of another one")
    backend = open_backend(run)
    assert backend.name == "openvino float32"
    assert f"{out.stem}.bin: was modified after verification" in backend.note
    with pytest.raises(ConfigError, match="--calibrate DATA"):
        open_backend(run, precision="int8")


@pytest.mark.parametrize(
    ("options", "output"),
    [
        ({"precision": "int8"}, "add --calibrate DATA"),
        ({"precision": "int8", "backend": "torch"}, "not supported by torch"),
        ({"calibrate": "digits"}, "only valid with --precision int8"),
    ],
)
def test_bad_options(run, options, output):
    with pytest.raises(ConfigError, match=output):
        open_backend(run, **options)
