"""Every script in examples/ runs, and scripts without `if __name__` can be stopped and resumed."""

import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from digit_folders import write_tree
from paths import ROOT

import resnets
from resnets.data.sources.builtin import load_digits

EXAMPLES = ROOT / "examples"
TESTED = {"squeeze_excitation", "custom_loss", "own_dataset", "finetune", "serve"}


def run_example(name, monkeypatch, capsys, *words) -> str:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == TESTED


@pytest.mark.ci
def test_squeeze_and_excitation(tmp_path, monkeypatch, capsys):
    words = ("--epochs", "1", "--depths", "8", "--out", tmp_path)
    text = run_example("squeeze_excitation", monkeypatch, capsys, *words)
    assert text.count("test error") == 2
    assert resnets.Run(tmp_path / "se-8").recipe.custom == {"block": "__main__.SEBlock"}
    assert resnets.Run(tmp_path / "basic-8").recipe.custom is None


@pytest.mark.ci
def test_custom_loss(tmp_path, monkeypatch, capsys):
    run_example("custom_loss", monkeypatch, capsys, "--epochs", "1", "--out", tmp_path / "run")
    assert resnets.Run(tmp_path / "run").recipe.custom == {"loss": "__main__.focal_loss"}


def test_own_dataset(tmp_path, monkeypatch, capsys):
    words = ("--epochs", "2", "--out", tmp_path / "run")
    text = run_example("own_dataset", monkeypatch, capsys, *words)
    run = resnets.Run(tmp_path / "run")
    assert run.result["test"]["top1_error"] < 30  # chance is 50
    assert run.recipe.custom == {"model": "__main__.make_net"}
    assert run.recipe.data.source == "python:__main__.Even"
    assert "even" in text


@pytest.mark.ci
def test_finetuning(tmp_path, monkeypatch, capsys, digits_run):
    write_tree(tmp_path / "digits", count=40)
    words = (tmp_path / "digits", "--weights", digits_run, "--model", "cifar-resnet8")
    words += ("--size", "8", "--epochs", "2", "--out", tmp_path / "run")
    text = run_example("finetune", monkeypatch, capsys, *words)
    assert (tmp_path / "run" / "ten-crop" / "evaluation.json").is_file()
    assert (tmp_path / "run" / "cifar-resnet8.pt2").is_file()
    assert "ten-crop" in text


def test_serving(digits_run, monkeypatch):
    from fastapi.testclient import TestClient
    from PIL import Image

    make_app = runpy.run_path(str(EXAMPLES / "serve.py"))["make_app"]
    pixels, labels = load_digits()
    image = io.BytesIO()
    Image.fromarray((pixels[0] * (255 / 16)).astype("uint8")).save(image, "png")
    with TestClient(make_app(str(digits_run)), base_url="http://localhost") as client:
        assert client.get("/about").json()["run"] == str(digits_run)
        answer = client.post("/predict", files={"file": ("digit.png", image.getvalue())})
    assert answer.status_code == 200
    assert str(labels[0]) in json.dumps(answer.json())


SCRIPT = """
import sys, resnets
try:
    resnets.train("digits", model="cifar-resnet8", epochs=10_000, out=sys.argv[1], device="cpu",
                  log_every="1it", precision="float32", **{"eval.every": "10000it"})
except KeyboardInterrupt as stop:
    print(f"{type(stop).__name__}: {stop}")
"""


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="SIGINT is ignored here"
)
def test_ctrl_c_in_a_script_leaves_a_checkpoint_and_says_how_to_resume(tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    rows = out / "metrics.jsonl"
    while process.poll() is None and not (rows.is_file() and rows.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.startswith("Interrupted: stopped at step ")
    assert f"resnets.train(out={str(out)!r}, resume=True)" in output
    step = int(output.split("step ")[1].split(";")[0].replace(",", ""))
    assert (out / "checkpoints" / "last.safetensors").is_file()
    run = resnets.train(out=out, resume=True, iterations=step + 2, device="cpu", quiet=True)
    assert run.history[-1]["step"] == step + 2
    assert isinstance(run.folder, Path)
