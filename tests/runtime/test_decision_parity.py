"""predict, exports, bulk prediction and the server decide alike: labels, temperature, unknown."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from bulk_runs import predict_here
from small_models import CLASSES, RESIDUAL, small_net, write_images

import resnets
from resnets.config import Postprocess
from resnets.export.select_backend import open_backend
from resnets.serve.models import Classifier
from resnets.serve.schemas import PredictOptions

SPECS = {
    "unknown": Postprocess(temperature=1.7, min_score=2.05),
    "labels": Postprocess(activation="sigmoid", temperature=0.8, thresholds=(0.4, 0.55, 0.5, 0.6)),
}


def paint(folder: Path) -> list[str]:
    return [str(folder / path) for path in write_images(folder).files.paths]


@pytest.mark.parametrize("name", [pytest.param("unknown", marks=pytest.mark.ci), "labels"])
def test_decisions_agree(tmp_path, name: str) -> None:
    spec = SPECS[name]
    net = small_net(RESIDUAL)
    net.postprocess = spec
    if spec.multilabel:  # halfway between the images' probabilities
        found = resnets.predict(net, paint(tmp_path / "images"), top_k=4, precision="float32")
        by_class = [dict(zip(each.classes, each.probabilities, strict=True)) for each in found]
        middle = [sorted(each[name] for each in by_class)[2:4] for name in CLASSES]
        spec = replace(spec, thresholds=tuple(sum(pair) / 2 for pair in middle))
        net.postprocess = spec
    net.save(tmp_path / "net")
    assert resnets.load(tmp_path / "net").postprocess == spec
    images = paint(tmp_path / "images")
    wanted = resnets.predict(net, images, precision="float32")
    decided = [each.labels if spec.multilabel else each.unknown for each in wanted]
    assert len(set(decided)) > 1  # both answers occur
    assert all((each.unknown is None) == spec.multilabel for each in wanted)

    artifact = resnets.export(tmp_path / "net", "onnx", out=tmp_path / "net.onnx").path
    assert open_backend(artifact).postprocess == spec
    assert json.loads((tmp_path / "net.onnx.json").read_text())["postprocess"]["activation"] == (
        spec.activation
    )
    for model in (tmp_path / "net", artifact):
        for found, expected in zip(
            resnets.predict(model, images, precision="float32"), wanted, strict=True
        ):
            assert (found.classes, found.labels, found.unknown) == (
                (expected.classes, expected.labels, expected.unknown)
            )
            assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)

    for kind in ("parquet", "csv"):
        out = tmp_path / kind
        predict_here(tmp_path / "net", tmp_path / "images", out, format=kind, precision="float32")
    rows = pq.read_table(tmp_path / "parquet" / "part-00000.parquet").to_pylist()
    texts = (tmp_path / "csv" / "part-00000.csv").read_text().splitlines()
    for row, text, expected in zip(rows, texts[1:], wanted, strict=True):
        assert row["class1"] == expected.classes[0]
        assert row["probability1"] == pytest.approx(expected.probabilities[0], abs=1e-6)
        if spec.multilabel:
            assert tuple(row["labels"]) == expected.labels
            assert "unknown" not in row
        else:
            assert row["unknown"] is expected.unknown
            assert text.endswith(f",{str(expected.unknown).lower()},")

    served = Classifier(open_backend(tmp_path / "net", precision="float32"), str(artifact), "")
    data = [Path(path).read_bytes() for path in images]
    answers = served.compute([served.prepare(each, "image") for each in data])
    for answer, expected in zip(answers, wanted, strict=True):
        said = served.describe(answer, PredictOptions(top_k=4))
        assert [row["class"] for row in said["classes"]] == list(expected.classes)
        assert said.get("labels") == expected.labels
        assert said.get("unknown") == expected.unknown
    assert served.classes == CLASSES
