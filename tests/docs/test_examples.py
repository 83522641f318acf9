"""Every shell line and Python snippet of README.md and docs/ runs, on small stand-ins.

The folders, archives, runs and weights that the pages name are made by doc_workspace. Long runs are
shortened by `shortened`: fewer steps, smaller networks and images; the rest is run as it stands.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from doc_blocks import Block, blocks, commands
from doc_workspace import make_workspace
from paths import ROOT

import resnets
from resnets.cli.main import main
from resnets.models import catalog
from resnets.recipes.detection import split_name

TASKS = {"detect": "fpn", "detect-small": "fpn", "instances": "fpn", "localize": "pcr"}
SHORT_DETECTION = (
    "weights=none", "batch_size=2", "detect.train_sizes=[64]", "detect.max_size=128",
)  # fmt: skip
SHORT_TRAINING = ("data.size=32", "data.resize=32", "batch_size=8", "norm_batch=0")
SHORT_STUDY = (
    "--models", "cifar-plain8,cifar-resnet8", "--data", "cifar10.tar.xz", "--budget", "20it",
    "--seeds", "1", "--set", "batch_size=8", "--set", "norm_batch=0",
)  # fmt: skip
SHORT_TEXT = (
    "transformer.depth=1", "transformer.width=8", "transformer.heads=2", "transformer.context=16",
    "batch_size=512",
)  # fmt: skip
# What a line finds wrong with the data that its page talks about.
EXIT_CODES = {"resnets data check bccd.tar": 1, "resnets data check D --repair NEW": 1}
QUICK = (
    "resnets info ",
    "resnets data ",
    "resnets train ",
    "resnets evaluate ",
    "resnets predict ",
)
SLOW = (
    "resnets info vgg19", "resnets train detect", "resnets train instances",
    "resnets train segment", "resnets train localize", "runs/detect-1", "--data",
)  # fmt: skip

LONG_PAGES = ("docs/api.md", "docs/study.md")  # many snippets


def is_slow(line: str) -> bool:
    if line.partition("#")[0].strip() == "resnets info":  # builds all networks of the catalog
        return True
    return not line.startswith(QUICK) or any(word in line for word in SLOW) or ".xml" in line


LINES = [
    pytest.param(line, id=place, marks=[pytest.mark.slow] if is_slow(line) else [])
    for place, line, block in commands()
    if block.reason is None
]


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("docs"))


@pytest.fixture
def workspace(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stand-ins as the current folder."""
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True, copy_function=_copy_or_link)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _copy_or_link(source: str, target: str) -> None:
    """Large files, which no command changes, are links."""
    if os.path.getsize(source) > 1 << 20:
        os.symlink(source, target)
    else:
        shutil.copyfile(source, target)


@pytest.mark.parametrize("line", LINES)
def test_shell_line_runs(line, workspace, monkeypatch):
    words = shlex.split(line, comments=True)
    while "=" in words[0]:  # NAME=VALUE in front of the command
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        return
    if words[0] == "python":
        subprocess.run([sys.executable, ROOT / words[1], "--help"], check=True)
        return
    assert words[0] == "resnets", "mark it as not run, or teach this test to run it"
    words = shortened([_relative(word) for word in words[1:]])
    prepare(words)
    if words[0] == "serve":
        serves(words)
    else:
        expected = EXIT_CODES.get(" ".join(shlex.split(line, comments=True)), 0)
        assert main(words) == expected, words


def prepare(words: list[str]) -> None:
    """Make what is too slow to make for every line: artifacts, and a study to resume."""
    for word in words:
        if word.endswith(".xml"):
            artifact = word.rpartition("=")[2]
            assert main(["export", "runs/flowers", "--to", "openvino", "--out", artifact]) == 0
    if words[:2] == ["study", "depth"] and "--resume" in words:
        study = words[words.index("--resume") + 1]
        shutil.rmtree(study)
        assert main(["study", "depth", *SHORT_STUDY, "--out", study]) == 0
    if words[0] == "train" and "--out" in words:
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)


def _relative(word: str) -> str:
    """Absolute paths of the pages lie in the workspace."""
    return word.lstrip("/") if word.startswith("/") else word


def shortened(words: list[str]) -> list[str]:
    """The command with everything that makes it long replaced."""
    if words[0] == "train" and "--list" not in words:
        return _shortened_training(words)
    if words[:2] == ["data", "pack"] and "--verify" not in words:
        return [*words, "--out", "new.pack"]  # the pack that other lines read is there already
    if words[:2] == ["study", "gradients"]:
        return [*words[:2], SHORT_STUDY[1], "--iterations", "10", "--data", "cifar10.tar.xz"]
    if words[:2] == ["study", "forms"]:
        models = ("--models", "cifar-resnet8,cifar-resnet14")
        words = _without(words, "--budget", "--seeds", "--models", "--data")
        return [*words, *models, *SHORT_STUDY[2:], "--device", "cpu"]
    if words[:2] == ["study", "depth"] and ("text" in words or "transformer" in " ".join(words)):
        words = _without(words, "--budget", "--seeds", "--data")
        sizes = [word for change in SHORT_TEXT[1:] for word in ("--set", change)]
        return [*words, *sizes, "--budget", "20it", "--seeds", "1", "--device", "cpu"]
    if words[:2] in (["study", "depth"], ["study", "shortcuts"]) and "--resume" not in words:
        words = _without(words, "--budget", "--seeds", "--models", "--data")
        return [*words, *SHORT_STUDY, "--device", "cpu"]
    if words[0] == "study" and "cifar10" in words:  # the file of the workspace, not a download
        words[words.index("cifar10")] = "cifar10.tar.xz"
    if words[:2] == ["study", "landscape"]:
        words += ["--steps", "3"]
    return words


def _shortened_training(words: list[str]) -> list[str]:
    resumes = "--resume" in words
    words = _without(words, "--epochs", "--iterations")
    if resumes:
        return [*words, "--iterations", "9"]
    if words[1] in ("text", "signals"):
        for change in SHORT_TEXT if words[1] == "text" else ("batch_size=8",):
            words += ["--set", change]
        return [*words, "--iterations", "1"]
    name = words[words.index("--model") + 1] if "--model" in words else None
    words = _without(words, "--model")
    task = words[1]
    if task in TASKS or task == "segment":
        if name is not None:
            split_name(name, "fpn")  # it exists
        head = TASKS.get(task, "deeplabv3")
        changes = [*SHORT_DETECTION]
        words += ["--model", f"resnet18-{head}"]
        if task == "instances" or head == "fpn":
            changes.append("detect.pyramid_width=16")
        if task == "segment":
            changes.append("detect.crop=64")
    else:
        if name is not None:
            catalog.spec(name)
        changes = [*SHORT_TRAINING] if task != "digits" else []
        ships = any(word.startswith("weights=resnets:") for word in words)
        words += ["--model", "cifar-resnet20" if ships else "cifar-resnet8"]
        if task == "finetune":
            changes.append("weights=wide.safetensors")
        if "cifar" in task and "--data" not in words:
            words += ["--data", "cifar10.tar.xz"]
    for change in changes:
        words += ["--set", change]
    return [*words, "--iterations", "1"]


def _without(words: list[str], *options: str) -> list[str]:
    """The words without these options and their values."""
    kept = []
    rest = iter(words)
    for word in rest:
        if word in options:
            next(rest)
        else:
            kept.append(word)
    return kept


def serves(words: list[str]) -> None:
    """Start a server, wait until it is ready, and end it as a supervisor does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [*_without(words, "--port"), "--port", str(port)]
    if not any(word.endswith(".xml") for word in words):
        words += ["--backend", "torch"]  # the others are exported first
    with subprocess.Popen([sys.executable, "-m", "resnets", *words]) as process:
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None
                    assert time.monotonic() < deadline, "not ready"
                    time.sleep(0.2)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.slow
def test_output_on_real_data_is_as_shown(shared_data, tmp_path, monkeypatch, capsys):
    """Of console blocks whose data set is at hand; "..." stands for lines left out."""
    monkeypatch.chdir(tmp_path)
    shown = [block.text.splitlines() for block in blocks("console")]
    checks = [lines for lines in shown if lines[0].startswith("$ resnets data check ")]
    at_hand = [lines for lines in checks if (shared_data / lines[0].split()[-1]).is_file()]
    assert at_hand
    for command, *lines in at_hand:
        words = command.split()[2:]
        (tmp_path / words[-1]).symlink_to(shared_data / words[-1])
        assert main(words) == EXIT_CODES[command.removeprefix("$ ")]
        output = "".join(capsys.readouterr()).splitlines()
        assert not [line for line in lines if line != "..." and line not in output]


def test_result_file_has_the_keys_that_are_shown(stand_ins):
    result = json.loads((stand_ins / "runs" / "photos" / "result.json").read_text())
    (shown,) = [block.text for block in blocks("json") if '"top1_error"' in block.text]
    keys = set(re.findall(r'"(\w+)":', shown)) - {"top5_error"}  # two classes have none
    assert keys <= {*result, *result["test"], *result["splits"]}


SNIPPETS: dict[str, list[Block]] = {}  # by page; later ones use the names of earlier ones
for each in blocks("python"):
    if each.reason is None:
        SNIPPETS.setdefault(each.page.relative_to(ROOT).as_posix(), []).append(each)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.ci] * (page in LONG_PAGES)) for page in SNIPPETS],
)
def test_python_snippets_run(page, workspace, monkeypatch):
    def train(*words, epochs=None, **options):
        return train_in_full(*words, iterations=2, device="cpu", quiet=True, **options)

    train_in_full = resnets.train
    monkeypatch.setattr(resnets, "train", train)
    names = {"__name__": "snippets"}
    for block in SNIPPETS[page]:
        exec(compile(block.text, block.place, "exec"), names)
