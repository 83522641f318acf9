"""Ensembles against manual averages; groups, memory and bad files; several processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from paths import HELPERS
from small_models import CLASSES, PREACT, RESIDUAL, SIZES, small_net, write_images
from torch import Tensor, nn

from resnets.data import DataError, FileSplit, TensorSplit
from resnets.data.files.folder import FolderFiles
from resnets.evaluate.batched_inference import CPU_PIXELS, PixelBudget
from resnets.evaluate.data.ground_truth import GroundTruth, split_truth
from resnets.evaluate.ensemble import Ensemble
from resnets.evaluate.measure import measure
from resnets.evaluate.views import Views, load_image
from resnets.utils.machine.distributed import init_distributed

CPU = torch.device("cpu")
SAME = torch.arange(len(CLASSES))


def ensemble(nets, views=Views(), average="probabilities") -> Ensemble:  # noqa: B008
    return Ensemble(nets, views, average, CPU, "float32")


def scores(nets, split, views=Views(), average="probabilities") -> Tensor:  # noqa: B008
    parts = ensemble(nets, views, average).scores(split, range(len(split)), workers=2)
    return torch.cat([part.logits for part in parts])


def test_ensemble_of_unlike_networks_is_the_manual_average(tmp_path: Path):
    split = write_images(tmp_path)
    one = small_net(RESIDUAL)
    two = small_net(PREACT, size=20, resize=24, classes=("dog", "cat", "ant", "bee"), seed=1)
    shares, logits = [], []
    for net in (one, two):
        with torch.no_grad():  # each net sees what its own preprocessing gives
            out = net(net.preprocess([tmp_path / name for name in split.files.paths]))
        columns = [net.classes.index(name) for name in CLASSES]
        shares.append(out.softmax(1)[:, columns])
        logits.append(out[:, columns])
    ours = scores([one, two], split)
    torch.testing.assert_close(ours.softmax(1), (shares[0] + shares[1]) / 2)
    ours = scores([one, two], split, average="logits")
    torch.testing.assert_close(ours, (logits[0] + logits[1]) / 2)


def test_views_of_each_network_are_averaged_before_networks(tmp_path: Path):
    split = write_images(tmp_path)
    nets = [small_net(RESIDUAL), small_net(PREACT, size=20, resize=24, seed=1)]
    for views in (Views("ten-crop"), Views("dense", flip=True)):
        alone = [scores([net], split, views).softmax(1) for net in nets]
        both = scores(nets, split, views).softmax(1)
        torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


def test_models_of_other_classes_cannot_be_averaged():
    other = small_net(RESIDUAL, classes=("ant", "bee", "cat", "eel"))
    with pytest.raises(DataError, match="cannot form an ensemble.*: dog, eel"):
        ensemble([small_net(RESIDUAL), other])


def test_protocol_names_every_network_in_full():
    nets = [small_net(RESIDUAL), small_net(PREACT, size=20, resize=24)]
    assert ensemble(nets, Views("ten-crop"), "logits").protocol(["a", "b"]) == (
        "2 models, logits averaged [10 views (corners and center at shorter side 32 px, each"
        " flipped; logits averaged), 28x28 px, float32, a; 10 views (corners and center at shorter"
        " side 24 px, each flipped; logits averaged), 20x20 px, float32, b]"
    )


def test_images_in_memory_are_cut_like_files(tmp_path: Path):
    files = write_images(tmp_path, ((40, 32),) * 5)
    images = np.stack([np.array(load_image(files, k)) for k in range(5)])
    held = TensorSplit(torch.from_numpy(images), files.labels, CLASSES, "five")
    net = small_net(RESIDUAL)
    for views in (Views(), Views("ten-crop"), Views("dense")):
        torch.testing.assert_close(scores([net], held, views), scores([net], files, views))


def test_each_image_counts_once_and_bad_files_are_named(tmp_path: Path):
    split = write_images(tmp_path, SIZES * 10)
    (tmp_path / "11.png").write_bytes(b"")
    whole = (tmp_path / "40.png").read_bytes()
    (tmp_path / "40.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "69.png").unlink()
    net = small_net(RESIDUAL)
    found = measure(
        ensemble([net], Views("dense", (28,))), split, split_truth(split.labels, SAME),
        weights=["w"],
    )  # fmt: skip
    assert found.evaluation.examples == 67
    assert [error.split(":")[0].rsplit("/", 1)[-1] for error in found.errors] == [
        "11.png", "40.png", "69.png",
    ]  # fmt: skip
    assert found.evaluation.protocol.endswith("70 noises, 3 unreadable skipped")
    shares = [mistake.probability for mistake in found.mistakes]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) <= 24


def test_all_files_bad_is_an_error_after_all_are_named(tmp_path: Path):
    split = write_images(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"no image")
    named = []

    def progress(parts):
        for part in parts:
            named.extend(part.errors)
            yield part

    with pytest.raises(ValueError, match="no examples"):
        measure(
            ensemble([small_net(RESIDUAL)]), split, split_truth(split.labels, SAME),
            weights=["w"], progress=progress,
        )  # fmt: skip
    assert len(named) == len(SIZES)


def test_images_without_a_label_are_not_even_read(tmp_path: Path):
    split = write_images(tmp_path)
    (tmp_path / "02.png").unlink()
    truth = GroundTruth([(0,), (1, 2), (), (3,), (0,), (), (2,)])
    found = measure(ensemble([small_net(RESIDUAL)]), split, truth, weights=["w"])
    assert found.evaluation.examples == 5
    assert found.errors == ()


class Hungry(nn.Module):
    """Runs out of memory, as CUDA does, above a number of pixels."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.sizes = most, []

    def forward(self, x: Tensor) -> Tensor:
        pixels = len(x) * x.shape[2] * x.shape[3]
        if pixels > self.most:
            raise torch.OutOfMemoryError(f"{pixels}")
        self.sizes.append(pixels)
        return x.mean((2, 3))


def test_batch_is_halved_until_it_fits_and_stays_so():
    net, budget = Hungry(3 * 64), PixelBudget(CPU)
    images = torch.rand(20, 3, 8, 8)
    torch.testing.assert_close(budget.run(net, images), images.mean((2, 3)))
    assert sum(net.sizes) == 20 * 64  # each image once
    tried = budget.pixels
    budget.run(net, images)
    assert budget.pixels == tried <= 3 * 64  # found once


def test_one_image_that_does_not_fit_is_one_clear_line():
    with pytest.raises(ValueError, match=r"out of memory with one image of 9x8 px"):
        PixelBudget(CPU).run(Hungry(64), torch.rand(4, 3, 8, 9))


def test_a_cpu_computes_at_most_a_megapixel_at_once():
    net = Hungry(CPU_PIXELS)
    PixelBudget(CPU).run(net, torch.rand(9, 3, 512, 512))
    assert max(net.sizes) == CPU_PIXELS
    assert len(net.sizes) == 3


SECOND = """
import json, sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {helpers!r}]
from test_ensemble import measured_together
print(json.dumps(measured_together(Path({folder!r}))))
"""


def measured_together(folder: Path) -> dict[str, object]:
    """What this process finds on the painted images, of which it computes its share."""
    names = sorted(path.name for path in folder.iterdir())
    labels = torch.arange(len(names)) % len(CLASSES)
    split = FileSplit(FolderFiles(folder, names), labels, CLASSES, "painted")
    with init_distributed("cpu") as group:
        return measure(
            ensemble([small_net(RESIDUAL)]), split, split_truth(labels, SAME), weights=["w"],
            group=group,
        ).to_json()  # fmt: skip


def test_two_processes_count_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path)
    (tmp_path / "04.png").write_bytes(b"")
    alone = measured_together(tmp_path)
    with socket.socket() as held:  # bound to the end, so that nobody else is given this port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        for name, value in (
            ("WORLD_SIZE", "2"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", str(held.getsockname()[1])),
        ):
            monkeypatch.setenv(name, value)
        script = SECOND.format(
            tests=str(Path(__file__).parent), helpers=str(HELPERS), folder=str(tmp_path)
        )
        with forked.Popen(
            [sys.executable, "-c", script],
            env=os.environ | {"RANK": "1", "LOCAL_RANK": "1"},
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            monkeypatch.setenv("RANK", "0")
            ours = measured_together(tmp_path)
            theirs = json.loads(other.communicate(timeout=240)[0])
    assert ours == theirs
    assert ours["examples"] == 6
    assert ours["confusion"] == alone["confusion"]
    assert ours["loss"] == pytest.approx(alone["loss"])
    paths = [[each["path"] for each in result["confident_errors"]] for result in (ours, alone)]
    assert paths[0] == paths[1]
    assert len(ours["unreadable"]) == 1
