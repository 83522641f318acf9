"""`data.group`: images that belong together never straddle splits."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from digit_sets import digit_files

from resnets.config import ConfigError, DataSpec
from resnets.data import DataError, open_data
from resnets.data.dataset.image_identity import hold_out
from resnets.data.splits.image_record import TEST, TRAIN

PATIENTS, EACH = 30, 4


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """set.csv of path,label,patient: 30 patients with 4 images of two classes each."""
    (tmp_path / "images").mkdir()
    rows = ["path,label,patient"]
    for number, (data, _) in enumerate(digit_files(PATIENTS * EACH // 4, 4)):
        path = f"images/p{number % PATIENTS:02}_frame{number // PATIENTS}.png"
        (tmp_path / path).write_bytes(data)
        rows.append(f"{path},{'ill' if number % 3 else 'well'},P{number % PATIENTS}")
    (tmp_path / "set.csv").write_text("\n".join(rows))
    return tmp_path


def patients(split) -> set[str]:
    return {Path(split.files.name(row)).name[:3] for row in range(len(split))}


@pytest.mark.parametrize("group", ["column:patient", "column:Patient", r"regex:(p\d+)_"])
def test_no_patient_is_in_two_splits(clinic: Path, group: str, caplog) -> None:
    spec = DataSpec(source=str(clinic / "set.csv"), in_memory="never", group=group)
    with caplog.at_level(logging.WARNING):
        splits = open_data(spec, training=True)
    found = [patients(each) for each in (splits.train, splits.val, splits.test())]
    assert sum(map(len, found)) == PATIENTS == len(set.union(*found))
    assert all(len(each) >= 1 for each in found)
    sizes = [len(each) for each in (splits.train, splits.val, splits.test())]
    assert sizes == [EACH * len(each) for each in found]
    assert splits.summary.grouped_by == group
    assert dict(splits.summary.groups) == dict(
        zip(("train", "val", "test"), map(len, found), strict=True)
    )
    assert ("patient" in caplog.text) is group.startswith("regex")  # not used then
    again = open_data(replace(spec, split_seed=1), training=True)
    assert patients(again.train) != found[0]


def test_without_groups_patients_straddle(clinic: Path) -> None:
    splits = open_data(DataSpec(source=str(clinic / "set.csv"), in_memory="never"))
    assert patients(splits.train) & patients(splits.test())


def test_a_group_in_two_stored_splits(clinic: Path) -> None:
    lines = (clinic / "set.csv").read_text().splitlines()
    rows = [f"{lines[0]},split"]
    for number, line in enumerate(lines[1:]):  # patient 0 is in both
        late = number % PATIENTS >= 25 or number == 0
        rows.append(f"{line},{'test' if late else 'train'}")
    (clinic / "set.csv").write_text("\n".join(rows))
    spec = DataSpec(
        source=str(clinic / "set.csv"), in_memory="never", val_fraction=0, group="column:patient"
    )
    with pytest.raises(DataError, match="column:patient"):
        open_data(spec, training=True)
    allowed = open_data(replace(spec, overlap="allow"), training=True)
    assert [each.counts for each in allowed.overlaps] == [{TEST: 1}]
    assert [each.group for each in allowed.overlaps] == ["column:patient"]
    left = open_data(replace(spec, overlap="leave-out"), training=True)
    assert len(allowed.train) - len(left.train) == EACH - 1
    assert left.overlaps[0].copies.keys() == {TRAIN}
    assert not patients(left.train) & patients(left.test())


def test_a_new_frame_stays_with_its_video(clinic: Path) -> None:
    spec = DataSpec(source=str(clinic / "set.csv"), in_memory="never", group="column:patient")
    first = open_data(spec, training=True)
    rows = (clinic / "set.csv").read_text()
    for patient in range(PATIENTS):
        path = f"images/p{patient:02}_frame9.png"
        (clinic / path).write_bytes(digit_files(60, 4)[150 + patient][0])
        rows += f"\n{path},ill,P{patient}"
    (clinic / "set.csv").write_text(rows)
    second = open_data(spec, first.fingerprint, training=True)
    for one, two in (
        (first.train, second.train), (first.val, second.val), (first.test(), second.test()),
    ):  # fmt: skip
        assert patients(one) == patients(two)
        assert len(two) == len(one) + len(patients(one))


def test_what_cannot_be_grouped_is_refused(clinic: Path) -> None:
    spec = DataSpec(source=str(clinic / "set.csv"), in_memory="never")
    for group, says in (("column:ward", "ward"), (r"regex:p0(\d)_", "p10_frame0")):
        with pytest.raises(DataError, match=says):
            open_data(replace(spec, group=group))
    with pytest.raises(DataError, match="paths"):
        open_data(DataSpec(source="digits", group="regex:x"))
    for changes in ({"group": "patient"}, {"group": "regex:("}, {"group": "column:"}):
        with pytest.raises(ConfigError, match="data.group"):
            replace(spec, **changes)
    with pytest.raises(ConfigError, match="split_rule"):
        replace(spec, group="column:patient", split_rule="rank")
    rows = (clinic / "set.csv").read_text().replace(",P3\n", ",\n", 1)
    (clinic / "set.csv").write_text(rows)
    with pytest.raises(DataError, match="line 5"):
        open_data(replace(spec, group="column:patient"))


def test_parquet_has_groups_too(clinic: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    lines = [line.split(",") for line in (clinic / "set.csv").read_text().splitlines()[1:]]
    rows = {
        "image": [{"bytes": (clinic / path).read_bytes(), "path": path} for path, _, _ in lines],
        "label": [label for _, label, _ in lines],
        "patient": [patient for _, _, patient in lines],
    }
    features = datasets.Features(
        image=datasets.Image(), label=datasets.Value("string"), patient=datasets.Value("string")
    )
    file = tmp_path / "clinic.parquet"
    datasets.Dataset.from_dict(rows, features).to_parquet(file)
    spec = DataSpec(source=str(file), in_memory="never", group="column:patient")
    counts = []
    for each in (spec, replace(spec, streaming=True), replace(spec, group=r"regex:(p\d+)_")):
        found = open_data(each, training=True).summary
        counts.append([split.images for split in found.splits])
        assert sum(found.groups.values()) == PATIENTS
    assert counts[0] == counts[1]
    assert all(count % EACH == 0 for count in counts[2])


def test_a_table_in_a_flat_folder(clinic: Path) -> None:
    (clinic / "images" / "labels.csv").write_text(
        (clinic / "set.csv").read_text().replace("images/", "")
    )
    (clinic / "set.csv").unlink()
    spec = DataSpec(source=str(clinic / "images"), in_memory="never", group="column:patient")
    assert sum(open_data(spec, training=True).summary.groups.values()) == PATIENTS


def test_groups_and_copies_connect() -> None:
    labels = np.repeat([0, 1], 200)
    ids = np.random.default_rng(0).integers(1, 2**63, 400).astype(np.uint64)
    groups = np.arange(400, dtype=np.uint64) // np.uint64(5) + np.uint64(1)
    content = ids.copy()
    content[7] = content[391]  # a copy in two groups, of two classes
    options = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": 3}
    parts = hold_out(labels, ids, **options, content=content, groups=groups)
    side = np.empty(400, int)
    for number, rows in enumerate(parts):
        side[rows] = number
    assert (side.reshape(80, 5) == side.reshape(80, 5)[:, :1]).all()
    assert side[7] == side[391]
    # Groups that are added move no others.
    more = hold_out(labels[:395], ids[:395], **options, content=content[:395], groups=groups[:395])
    moved = [np.setdiff1d(two, one) for one, two in zip(parts, more, strict=True)]
    assert sum(map(len, moved)) == 0
