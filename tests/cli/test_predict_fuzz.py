"""Malformed files through predict and evaluate: every one named in one line, the rest goes on."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import save_checkpoint
from malformed_images import png_of, sound, write_malformed, write_oddities
from small_models import CLASSES, RESIDUAL, small_net

from resnets.cli.main import main
from resnets.config import Recipe, to_dict


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    net = small_net(RESIDUAL)
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    tensors = {f"model/{name}": tensor for name, tensor in net.state_dict().items()}
    meta = {
        "step": 1,
        "recipe": to_dict(Recipe(model=net.spec)),
        "classes": list(CLASSES),
        "preprocess": to_dict(net.preprocess.spec),
    }
    save_checkpoint(path, tensors, meta)
    return path


def call(capfd, *words) -> tuple[int, str, str]:
    code = main([*map(str, words), "--device", "cpu", "--precision", "float32"])
    return code, *capfd.readouterr()


def write_mixed(folder: Path, count: int) -> tuple[list[Path], list[Path]]:
    """Malformed files and oddities, and as many sound images as a twentieth of them."""
    bad = write_malformed(folder, count) + write_oddities(folder)
    random = np.random.default_rng(1)
    good = [folder / f"{number:05}-zz-sound.png" for number in range(0, count, 20)]
    for path in good:
        path.write_bytes(sound("PNG", random))
    return good, bad


BLOCK = ("evaluating in", "data:", "images:", "skipped:", "note:", "links:", "          ")


def complaints(err: str) -> list[str]:
    """The lines of a command without the block of what was understood."""
    return [line for line in err.splitlines() if not line.startswith(BLOCK)]


def check_predict(capfd, checkpoint: Path, folder: Path, count: int) -> None:
    good, bad = write_mixed(folder, count)
    code, out, err = call(capfd, "predict", checkpoint, folder, "--json")
    entries = {entry["path"]: entry for entry in json.loads(out)}
    assert code == 1
    assert sorted(entries) == sorted(str(path) for path in good + bad)
    assert all(entries[str(path)]["predictions"] for path in good)
    refused = [path for path in map(str, bad) if not entries[path]["predictions"]]
    assert len(refused) > 0.6 * len(bad)  # a flipped bit may leave an image readable
    assert all("error" in entries[path] for path in refused)
    lines = complaints(err)
    assert len(lines) == len(refused)  # one each, and nothing of what decoders say besides
    for path in refused:
        assert sum(f"{path}: " in line for line in lines) == 1, path


def check_evaluate(capfd, checkpoint: Path, folder: Path, count: int) -> None:
    good, bad = write_mixed(folder, count)
    labels = folder.with_suffix(".csv")
    names = [path.name for path in good + bad]
    labels.write_text("\n".join(f"{name},ant" for name in names), encoding="utf-8")
    words = ("evaluate", checkpoint, "--data", folder, "--labels", labels, "--views", "dense")
    code, out, err = call(capfd, *words, "--scales", "28", "--json")
    result = json.loads(out)
    assert code == 1
    assert result["examples"] + len(result["unreadable"]) == len(names)
    assert result["examples"] >= len(good)
    lines = complaints(err)
    # Besides their number, and that there is no record of training images.
    assert len(lines) == len(result["unreadable"]) + 2
    for message in result["unreadable"]:
        assert lines.count(f"resnets evaluate: {message}") == 1
    unread = {message.split(": ")[0] for message in result["unreadable"]}
    assert len(unread) == len(result["unreadable"])
    assert unread <= {str(path) for path in bad}


def test_predict_names_every_malformed_file(capfd, checkpoint, tmp_path):
    check_predict(capfd, checkpoint, tmp_path / "images", 240)


def test_evaluate_names_every_malformed_file(capfd, checkpoint, tmp_path):
    check_evaluate(capfd, checkpoint, tmp_path / "images", 240)


@pytest.mark.slow
def test_two_thousand_malformed_files(capfd, checkpoint, tmp_path):
    check_predict(capfd, checkpoint, tmp_path / "predicted", 2000)
    check_evaluate(capfd, checkpoint, tmp_path / "evaluated", 2000)


@pytest.mark.parametrize("sides", [(60_000, 60_000), (12_000, 9_000)])  # refused, warned of
def test_decompression_bombs_are_refused_before_they_are_decoded(
    capfd, checkpoint, tmp_path, sides
):
    (tmp_path / "bomb.png").write_bytes(png_of(*sides))
    code, _, err = call(capfd, "predict", checkpoint, tmp_path / "bomb.png", "--json")
    assert code == 1
    assert err.count("\n") == 1
    assert "bomb.png" in err


def test_every_given_path_has_a_result(capfd, checkpoint, tmp_path):
    odd = write_oddities(tmp_path)
    (tmp_path / "good.png").write_bytes(sound("PNG", np.random.default_rng(0)))
    (tmp_path / "notes.txt").write_text("no image")
    words = [*odd, tmp_path / "pipe.png", tmp_path / "notes.txt", tmp_path / "good.png"]
    code, out, err = call(capfd, "predict", checkpoint, *words, "--json")
    assert code == 1
    assert [len(entry["predictions"]) for entry in json.loads(out)] == [0] * 6 + [4]
    assert err.count("\n") == 6
    assert "pipe.png" in err
    # A folder that is called like an image is a folder.
    code, _, err = call(capfd, "predict", checkpoint, tmp_path / "folder.png")
    assert code == 1
    assert "folder.png" in err


AS_NOBODY = """
import contextlib, io, os, sys
from resnets.cli.main import main
checkpoint, folder, *words = sys.argv[1:]
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    main(["predict", checkpoint, f"{folder}/c.png", *words])  # imports what it needs
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    with open(checkpoint, "rb"):
        pass
sys.exit(main(["predict", checkpoint, folder, *words]))
"""


@pytest.mark.ci
def test_files_without_permission_are_named_and_the_others_predicted(checkpoint):
    """As nobody, where this user may read everything; so in a folder that all may enter."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder, copy = Path(place, "images"), Path(place, "net.safetensors")
        shutil.copy(checkpoint, copy)
        (folder / "closed").mkdir(parents=True)
        for name in ("a.png", "closed/b.png", "c.png"):
            (folder / name).write_bytes(sound("PNG", np.random.default_rng(0)))
        for path in (folder, copy, folder / "c.png"):  # whatever the umask is
            path.chmod(0o755)
        (folder / "a.png").chmod(0)
        (folder / "closed").chmod(0)
        words = [copy, folder, "--json", "--device", "cpu", "--precision", "float32"]
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, *map(str, words)],
            capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        (folder / "closed").chmod(0o755)
    assert done.returncode == 1, done.stderr
    entries = json.loads(done.stdout)
    assert [Path(entry["path"]).name for entry in entries] == ["a.png", "c.png", "closed"]
    assert [len(entry["predictions"]) for entry in entries] == [0, 4, 0]
    lines = complaints(done.stderr)
    assert len(lines) == 2
    assert f"{folder / 'a.png'}: cannot be read (Permission denied)" in lines[0]
    assert f"{folder / 'closed'}: cannot be read (Permission denied)" in lines[1]
