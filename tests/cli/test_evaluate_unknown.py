"""`resnets evaluate --unknown FOLDER`: images of no class are told from those of the classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from small_models import CLASSES, RESIDUAL, small_net

import resnets
from resnets.cli.main import main
from resnets.config import Postprocess

KNOWN, UNKNOWN = 20, 9  # images
THRESHOLD = 2.3


def paint(folder: Path, count: int, seed: int) -> list[Path]:
    """Write `count` blurred spots as PNG files."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:02}.png" for number in range(count)]
    for number, path in enumerate(paths):
        spots = np.random.default_rng([seed, number]).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(spots).resize((40, 40), Image.Resampling.BICUBIC).save(path)
    return paths


def scores(net: Path, paths: list[Path]) -> np.ndarray:
    """The logsumexp of the logits of each image."""
    model = resnets.load(net).eval()
    with torch.inference_mode():
        logits = model(torch.stack([model.preprocess(path) for path in paths]))
    return logits.double().logsumexp(1).numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net, images in class folders, and a flat folder of others."""
    root = tmp_path_factory.mktemp("unknown")
    for label, name in enumerate(CLASSES):
        paint(root / "known" / "test" / name, KNOWN // len(CLASSES), label)
    paint(root / "others", UNKNOWN, 99)
    net = small_net(RESIDUAL)
    net.save(root / "plain")
    net.postprocess = Postprocess(temperature=1.3, min_score=THRESHOLD)
    net.save(root / "net")
    return root


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["evaluate", *map(str, words), "--device", "cpu", "--precision", "float32"])
    return code, *capsys.readouterr()


def test_the_figures_are_those_of_the_scores(capsys, folder: Path) -> None:
    known = sorted((folder / "known").rglob("*.png"))
    others = sorted((folder / "others").glob("*.png"))
    high, low = scores(folder / "net", known), scores(folder / "net", others)
    words = (folder / "net", "--data", folder / "known", "--unknown", folder / "others")
    code, out, _ = call(capsys, *words, "--json")
    found = json.loads(out)["unknown"]
    assert (code, found["known"], found["unknown"], found["errors"]) == (0, KNOWN, UNKNOWN, [])
    truth = np.r_[np.ones(KNOWN), np.zeros(UNKNOWN)]
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, np.r_[high, low]))
    accepted = low >= np.sort(high)[0]  # the lower 5% quantile of 20 scores
    assert found["false_accepts"] == pytest.approx(100 * accepted.mean())
    assert found["accepted_known"] == pytest.approx(100 * (high >= THRESHOLD).mean())
    assert found["accepted_unknown"] == pytest.approx(100 * (low >= THRESHOLD).mean())
    assert 0 < found["accepted_known"] < 100
    marked = [each.unknown for each in resnets.predict(folder / "net", others, precision="float32")]
    assert found["accepted_unknown"] == pytest.approx(100 * (1 - np.mean(marked)))
    code, out, _ = call(capsys, *words)
    assert code == 0
    assert f"{found['auroc']:.4f}" in out


@pytest.mark.ci
def test_an_artifact_gives_the_same(capsys, folder: Path) -> None:
    artifact = resnets.export(folder / "net", "onnx", out=folder / "net.onnx").path
    words = ("--data", folder / "known", "--unknown", folder / "others", "--json")
    ours, theirs = (
        json.loads(call(capsys, model, *words)[1])["unknown"]
        for model in (folder / "net", artifact)
    )
    assert theirs.keys() == ours.keys()
    assert theirs["auroc"] == pytest.approx(ours["auroc"])
    assert theirs["accepted_unknown"] == pytest.approx(ours["accepted_unknown"])


def test_weights_without_a_threshold_have_no_share_at_it(capsys, folder: Path) -> None:
    words = ("--data", folder / "known", "--unknown", folder / "others", "--json")
    found = json.loads(call(capsys, folder / "plain", *words)[1])["unknown"]
    assert found["accepted_known"] is found["accepted_unknown"] is None
    assert 0 <= found["auroc"] <= 1


def test_unreadable_images_are_counted(capsys, folder: Path, tmp_path: Path) -> None:
    paint(tmp_path / "others", 2, 99)
    (tmp_path / "others" / "x.png").write_bytes(b"no image")
    words = ("--data", folder / "known", "--unknown", tmp_path / "others", "--json")
    _, out, _ = call(capsys, folder / "net", *words)
    found = json.loads(out)["unknown"]
    assert (found["unknown"], len(found["errors"])) == (2, 1)


def test_what_has_no_such_figure_is_refused(capsys, folder: Path, tmp_path: Path) -> None:
    words = ("--data", folder / "known", "--unknown", folder / "others")
    for extra in ((folder / "plain",), ("--views", "ten-crop")):
        assert call(capsys, folder / "net", *extra, *words)[0] == 2
    (tmp_path / "empty").mkdir()
    missing = ("--data", folder / "known", "--unknown")
    assert call(capsys, folder / "net", *missing, tmp_path / "empty")[0] == 1
    assert call(capsys, folder / "net", *missing, tmp_path / "nowhere")[0] in (1, 2)
