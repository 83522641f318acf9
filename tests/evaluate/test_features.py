"""Embeddings against the head that reads them, the file they are written to, and the nearest."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_models import CLASSES, PREACT, RESIDUAL, VGG, small_net, write_images

from resnets.config import ModelSpec
from resnets.evaluate.features import (
    Embedding,
    NearestImages,
    embed,
    iter_embeddings,
    write_parquet,
)

CPU = torch.device("cpu")


def found(net, split) -> list[Embedding]:
    return list(iter_embeddings(net, split, device=CPU, precision="float32", workers=2))


@pytest.mark.parametrize("spec", [RESIDUAL, PREACT])
def test_a_vector_is_what_the_head_reads(spec: ModelSpec, tmp_path: Path):
    net, split = small_net(spec), write_images(tmp_path)
    images = net.preprocess([tmp_path / name for name in split.files.paths])
    with torch.no_grad():
        logits = net(images)
        ours = torch.stack([torch.from_numpy(each.vector) for each in found(net, split)])
        torch.testing.assert_close(net.head(ours), logits)


def test_of_vgg_it_is_the_mean_of_the_last_stage(tmp_path: Path):
    net = small_net(VGG)
    images = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(embed(net, images), net.stages(images)["stage2"].mean((2, 3)))


def test_names_labels_and_errors_keep_their_place(tmp_path: Path):
    net, split = small_net(RESIDUAL), write_images(tmp_path)
    (tmp_path / "03.png").write_bytes(b"")
    rows = found(net, split)
    assert [Path(row.path).name for row in rows] == list(split.files.paths)
    assert [row.label for row in rows] == [CLASSES[k % 4] for k in range(7)]
    assert [len(row.vector) for row in rows] == [16, 16, 16, 0, 16, 16, 16]
    assert "03.png" in rows[3].error


def test_parquet_holds_path_label_and_embedding(tmp_path: Path):
    net, split = small_net(RESIDUAL), write_images(tmp_path / "in")
    rows = found(net, split)
    rows[2] = Embedding(rows[2].path, None, rows[2].vector)
    out = tmp_path / "features.parquet"
    assert write_parquet(iter(rows), out, {"weights": "w"}) == 7
    table = pq.read_table(out)
    assert table.column_names == ["path", "label", "embedding"]
    assert table["path"].to_pylist() == [row.path for row in rows]
    assert table["label"].to_pylist()[1:4] == ["bee", None, "dog"]
    np.testing.assert_array_equal(
        np.array(table["embedding"].to_pylist(), np.float32), np.stack([row.vector for row in rows])
    )
    assert table.schema.metadata[b"resnets"] == b'{"weights": "w"}'
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["features.parquet"]


def test_a_failed_file_is_removed(tmp_path: Path):
    def rows():
        for number in range(300):
            yield Embedding(f"{number}.png", None, np.ones(4, np.float32))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_parquet(rows(), tmp_path / "features.parquet", {})
    with pytest.raises(ValueError, match="no readable image"):
        write_parquet(iter(()), tmp_path / "features.parquet", {})
    assert list(tmp_path.iterdir()) == []


def test_nearest_by_cosine_over_many(tmp_path: Path):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(2000, 8)).astype(np.float32)
    vectors[7] = 0
    wanted = generator.normal(size=8).astype(np.float32)
    nearest = NearestImages(wanted, 5)
    passed = [
        each.path
        for each in nearest.collect(
            Embedding(str(number), None, vector) for number, vector in enumerate(vectors)
        )
    ]
    assert passed == [str(number) for number in range(2000)]
    lengths = np.linalg.norm(vectors, axis=1)
    lengths[7] = 1
    likeness = vectors @ wanted / lengths / np.linalg.norm(wanted)
    best = np.argsort(-likeness)[:5]
    assert [each.path for _, each in nearest.best] == [str(number) for number in best]
    np.testing.assert_allclose([value for value, _ in nearest.best], likeness[best], rtol=1e-5)
    assert len(nearest.candidates) < 300  # memory does not grow with the data


def test_an_image_is_nearest_to_itself(tmp_path: Path):
    net, split = small_net(RESIDUAL), write_images(tmp_path)
    (image,) = found(net, [tmp_path / "05.png"])
    nearest = NearestImages(image.vector, 1)
    list(nearest.collect(found(net, split)))
    ((likeness, best),) = nearest.best
    assert Path(best.path).name == "05.png"
    assert likeness == pytest.approx(1)
