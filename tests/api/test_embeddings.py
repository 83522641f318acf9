"""`resnets.features` gives embeddings of images and data sets, as the command writes them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import resnets
from resnets.cli.main import main

WEIGHTS = "resnets:digits/cifar-resnet20"
OPTIONS = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of two classes with an image that cannot be read."""
    root = tmp_path_factory.mktemp("photos")
    split = resnets.open_data("digits").test()
    for place, name in enumerate(("one/a", "one/b", "two/c")):
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(split.images[place, :, :, 0].numpy()).save(root / f"{name}.png")
    (root / "two/d.png").write_bytes(b"no image")
    return root


def test_vectors_are_what_the_head_reads_of_paths_images_and_arrays(folder):
    model = resnets.load(WEIGHTS)
    paths = [folder / "one/a.png", folder / "one/b.png", folder / "two/c.png"]
    with torch.no_grad():
        maps = model.forward_features(model.preprocess(paths))
    given = [paths[0], Image.open(paths[1]), np.asarray(Image.open(paths[2]))]
    for weights in (WEIGHTS, model):
        found = resnets.features(weights, given, **OPTIONS)
        assert [each.path for each in found] == [str(paths[0]), "image 1", "image 2"]
        vectors = torch.from_numpy(np.stack([each.vector for each in found]))
        torch.testing.assert_close(vectors, maps.mean((2, 3)))
    model.reset_classifier(0)
    model.train()
    (found,) = resnets.features(model, given[1], **OPTIONS)
    torch.testing.assert_close(torch.from_numpy(found.vector), vectors[1])
    assert model.training


def test_a_folder_is_a_data_set_with_labels_alone_and_images_in_a_list(folder):
    names = ["one/a.png", "one/b.png", "two/c.png", "two/d.png"]
    alone = resnets.features(WEIGHTS, folder, **OPTIONS)
    listed = resnets.features(WEIGHTS, [folder], **OPTIONS)
    for found in (alone, listed):
        assert [each.path for each in found] == [str(folder / name) for name in names]
        assert [each.error is None for each in found] == [True] * 3 + [False]
        assert not len(found[3].vector)
    assert [each.label for each in alone] == ["one", "one", "two", "two"]
    assert [each.label for each in listed] == [None] * 4
    assert len(resnets.features(WEIGHTS, "digits", split="val", **OPTIONS)) < 400


def test_the_command_writes_the_same(folder, tmp_path, capsys):
    out = tmp_path / "rows.parquet"
    words = ["features", WEIGHTS, str(folder), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--precision", "float32"]) == 1
    assert "d.png" in capsys.readouterr().err
    rows = pq.read_table(out).to_pylist()
    found = resnets.features(WEIGHTS, folder, **OPTIONS)
    for row, each in zip(rows, found[:3], strict=True):
        assert (row["path"], row["label"]) == (each.path, each.label)
        assert row["embedding"] == each.vector.tolist()
    image = str(folder / "one/a.png")
    words = ["features", WEIGHTS, image, "--nearest", image, "--json", "--device", "cpu"]
    assert main(words) == 0
    (nearest,) = json.loads(capsys.readouterr().out)
    assert nearest["similarity"] == pytest.approx(1)


def test_what_does_not_apply_is_refused(folder, tmp_path):
    image = folder / "one/a.png"
    for call, message in (
        (lambda: resnets.features(WEIGHTS, image, split="val"), "split: only for data sets"),
        (
            lambda: resnets.features(WEIGHTS, folder, split="validation"),
            "split='validation': must be",
        ),
        (
            lambda: resnets.features(resnets.load(WEIGHTS), image, model="resnet18"),
            "model: only for weights",
        ),
        (lambda: resnets.features(tmp_path / "net.onnx", image), "is an artifact"),
        (lambda: resnets.features(WEIGHTS, object()), "images=<object>: must be"),
        (lambda: resnets.predict(WEIGHTS, None), "images=None: must be"),
        (
            lambda: resnets.features(torch.nn.Identity(), image),
            "<Identity>: must be",
        ),
    ):
        with pytest.raises(resnets.ConfigError, match=message):
            call()
