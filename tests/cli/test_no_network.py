"""No command looks a host up, connects to one, or writes into the home folder unasked."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

# Watches the process and, as sitecustomize, all Python processes that it starts.
HOOK = """
import os, sys
OUT = os.environ["NETWORK_LOG"]
LOCAL = ("127.", "::1", "localhost", "0.0.0.0")

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and not str(host).startswith(LOCAL):
        with open(OUT, "a") as file:
            file.write(f"{event} {host}\\n")

sys.addaudithook(watch)
"""

COMMANDS = """
import sys, json
from pathlib import Path
from resnets.cli.main import main

folder = Path(sys.argv[1])

def run(*words):
    words = [str(word) for word in words]
    code = main(words)
    assert code == 0, (code, words)

images = folder / "images"
run("info", "cifar-resnet20", "--json")
run("train", "digits", "--model", "cifar-resnet8", "--iterations", 4, "--out", folder / "run")
run("train", "--resume", folder / "run")
run("evaluate", folder / "run")
run("predict", folder / "run", images)
run("predict", folder / "run", "--data", images, "--out", folder / "rows")
run("features", folder / "run", images, "--out", folder / "features.parquet")
run("data", "check", images, "--out", folder / "check")
run("data", "pack", images, "--size", 16, "--out", folder / "set.pack")
run("push", folder / "run", "--to", folder / "pushed")
run("study", "depth", "--nets", "cifar-resnet8,cifar-plain8", "--data", "digits", "--seeds", 1,
    "--budget", "20it", "--out", folder / "study")
for target in sys.argv[2:]:
    kind, _, precision = target.partition("-")
    extra = ["--int8", "--calibrate", "digits", "--max-drop", 100] if precision else []
    code = main(["export", str(folder / "run"), "--to", kind, *map(str, extra)])
    assert code in (0, 3), (code, target)  # int8 of a net that learnt nothing may be refused
print("all done")
"""


def watched(folder: Path, code: str, *arguments: str) -> list[str]:
    """What a fresh process and its children looked up or connected to while it ran `code`."""
    home, log = folder / "home", folder / "log"
    for each in (home, folder / "site"):
        each.mkdir()
    (folder / "site" / "sitecustomize.py").write_text(HOOK)
    # As for a user: no CI, which some libraries take for a reason to be quiet.
    kept = {
        name: value for name, value in os.environ.items() if name not in ("CI", "HF_HUB_OFFLINE")
    }
    path = os.pathsep.join(filter(None, (str(folder / "site"), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), *arguments],
        env={**kept, "HOME": str(home), "PYTHONPATH": path, "NETWORK_LOG": str(log)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    left = [str(each.relative_to(home)) for each in home.rglob("*") if each.is_file()]
    assert not [each for each in left if not each.startswith((".cache/", ".config/matplotlib"))]
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a set of two classes in `images`."""
    digits = load_digits()
    for row in np.flatnonzero(digits.target < 2)[:40]:
        path = tmp_path / "images" / str(digits.target[row]) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[row] * 15).astype(np.uint8)).save(path)
    return tmp_path


def test_the_monitor_detects_a_name_lookup(tmp_path):
    code = "import socket\ntry: socket.getaddrinfo('host.invalid', 80)\nexcept OSError: pass"
    assert watched(tmp_path, code) == ["socket.getaddrinfo host.invalid"]


@pytest.mark.ci
def test_no_command_uses_the_network_unless_asked(folder):
    assert watched(folder, COMMANDS) == []


@pytest.mark.slow
def test_no_export_uses_the_network_unless_asked(folder):
    for name in ("onnx", "openvino", "nncf"):
        pytest.importorskip(name)
    assert watched(folder, COMMANDS, "onnx", "openvino-int8", "torch") == []
