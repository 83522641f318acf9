"""Data sets in every stored form: archives, tables, arrays and packs of images, signals, text."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import pickle
import shutil
import struct
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
from digit_sets import WNIDS, digit_files

from fuzzing.readers import HOME, Reader
from resnets.config import DataSpec, SignalSpec
from resnets.data.dataset.pack import HEADER, MAGIC, VERSION, open_pack
from resnets.data.dataset.quarantine_list import FIRST_LINE, Quarantine, read_quarantine
from resnets.data.decode.decode import Crop, center_box
from resnets.data.loading.pack_write import pack
from resnets.data.sources.open import find_source
from resnets.data.splits.open import open_data
from resnets.data.tables.ground_truth_file import read_labels
from resnets.sequence.signals import open_signals
from resnets.sequence.text import open_text

CLASSES = ("ant", "bee")
VIEW = Crop(8, 3, center_box(8, 8))


def encoded_images(count: int = 4) -> list[tuple[str, bytes]]:
    """Path and bytes of small images in class folders."""
    return [
        (f"{CLASSES[digit]}/{number}.png", data)
        for number, (data, digit) in enumerate(digit_files(count, 2))
    ]


def _folder(root: Path, count: int = 4) -> Path:
    for path, data in encoded_images(count):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def _spec(root: Path, **changes: object) -> DataSpec:
    found = list(root.iterdir())
    place = found[0] if len(found) == 1 else root
    return DataSpec(source=str(place), size=8, resize=8, workers=1, in_memory="never", **changes)


def source(root: Path) -> object:
    """Every label and every file of a set."""
    found = find_source(_spec(root))
    parts = [found.train, found.val, found.test() if found.test else None]
    for part in parts:
        if part is not None:
            _ = [part.labels[row] for row in range(len(part.labels))]
            for row in range(0 if part.files is None else len(part.files)):
                part.files.name(row), part.files.read(row)
    return found


def splits(root: Path) -> object:
    """The set as training opens it, with one view of each image."""
    found = open_data(_spec(root, val_fraction=0.25, test_fraction=0.25))
    for split in (found.train, found.val, found.test()):
        for row in range(0 if split is None else min(len(split), 5)):
            split.read(row, VIEW)
    return found


def streamed(root: Path) -> object:
    """The set as training streams it."""
    found = open_data(_spec(root, streaming=True, val_fraction=0.25, test_fraction=0.25))
    for row in range(min(3, len(found.train))):
        found.train.read(row, VIEW)
    return found


def _tar(files: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo("set/ant/link.png")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return out.getvalue()


def _zip(files: list[tuple[str, bytes]], how: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, how)
    return out.getvalue()


def write_archives(folder: Path) -> None:
    files = [(f"set/{path}", data) for path, data in encoded_images()]
    long = [(f"set/{'x' * 120}/{path}", data) for path, data in encoded_images()]
    table = "path,label\n" + "".join(
        f"{n}.png,{p[:3]}\n" for n, (p, _) in enumerate(encoded_images())
    )
    flat = [(f"{n}.png", data) for n, (_, data) in enumerate(encoded_images())]
    made = {
        "set.tar": _tar(files, link="../bee/1.png"),
        "pax.tar": _tar([(f"é{path}", data) for path, data in long]),
        "gnu.tar": _tar(long, tarfile.GNU_FORMAT),
        "set.tar.gz": gzip.compress(_tar(files), mtime=0),
        "set.tar.bz2": bz2.compress(_tar(files)),
        "set.tar.xz": lzma.compress(_tar(files)),
        "set.zip": _zip(files, zipfile.ZIP_DEFLATED),
        "stored.zip": _zip(files, zipfile.ZIP_STORED),
        "table.zip": _zip([*flat, ("labels.csv", table.encode())], zipfile.ZIP_DEFLATED),
        "table.tar": _tar([*flat, ("labels.csv", table.encode())]),
        "classes.tar": _tar([(f"{w}.tar", _tar([("a.png", flat[0][1])])) for w in WNIDS]),
    }
    for name, data in made.items():
        (folder / name).mkdir()
        (folder / name / name).write_bytes(data)


def write_webdataset(folder: Path) -> None:
    samples = [
        [(f"{number:03}.png", data), (f"{number:03}.cls", path[:3].encode())]
        for number, (path, data) in enumerate(encoded_images(8))
    ]
    coded = [
        [each[0], (each[0][0][:-3] + "json", b'{"label": "%s"}' % each[1][1])] for each in samples
    ]
    for name, made in (("cls", samples), ("json", coded)):
        (folder / name / HOME).mkdir(parents=True)
        for number in range(2):
            part = [file for sample in made[number * 8 : number * 8 + 8] for file in sample]
            path = folder / name / HOME / f"train-{number:05}.tar"
            path.write_bytes(_tar(part, tarfile.USTAR_FORMAT))


def write_parquet(folder: Path) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = encoded_images(6)
    typed = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": data, "path": None} for _, data in rows],
            "label": [CLASSES.index(path[:3]) for path, _ in rows],
        },
        datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
        ),
    )
    for name in ("typed", "plain", "saved", "stream"):
        (folder / name / HOME).mkdir(parents=True)
    typed.to_parquet(str(folder / "typed" / HOME / "train-0.parquet"), batch_size=4)
    plain = pa.table({"image": [d for _, d in rows], "label": [p[:3] for p, _ in rows]})
    pq.write_table(plain, folder / "plain" / HOME / "all.parquet", row_group_size=4)
    typed.save_to_disk(str(folder / "saved" / HOME))
    with pa.ipc.new_stream(str(folder / "stream" / HOME / "all.arrow"), plain.schema) as out:
        out.write_table(plain)


def write_tables(folder: Path) -> None:
    rows = [
        (path, path[:3], "train" if n % 3 else "test")
        for n, (path, _) in enumerate(encoded_images())
    ]
    plain = "path,label\n" + "".join(f"{path},{label}\n" for path, label, _ in rows)
    split = "filename,class,split\n" + "".join(f"{','.join(row)}\n" for row in rows)
    hot = "filename,ant,bee\n" + "".join(
        f"{path},{int(label == 'ant')},{int(label == 'bee')}\n" for path, label, _ in rows
    )
    texts = {
        "labels.csv": plain.encode(),
        "split.csv": split.encode("utf-8-sig"),
        "labels.tsv": plain.replace(",", "\t").encode("utf-16"),
        "semicolon.csv": split.replace(",", ";").replace("\n", "\r\n").encode("utf-16-le"),
        "words.txt": "".join(f"{path} {label}\n" for path, label, _ in rows).encode(),
        "hot.csv": hot.encode(),
        "quoted.csv": "".join(f'"{path}","{label}"\n' for path, label, _ in rows).encode(),
    }
    for name, data in texts.items():
        (_folder(folder / name / HOME) / name).write_bytes(data)
    for name in ("labels.csv", "_classes.csv", "metadata.csv"):
        root = folder / f"flat-{name}" / HOME
        root.mkdir(parents=True)
        for number, (_, data) in enumerate(encoded_images()):
            (root / f"{number}.png").write_bytes(data)
        text = hot if name == "_classes.csv" else split
        (root / name).write_text(text.replace("ant/", "").replace("bee/", ""))


def table(root: Path) -> object:
    """The table as the source, or found in the folder of its images."""
    home = root / HOME
    file = next((path for path in home.iterdir() if path.is_file() and path.suffix != ".png"), None)
    flat = file is None or any(path.suffix == ".png" for path in home.iterdir())
    place = str(home if flat else file)
    spec = DataSpec(source=place, size=8, resize=8, workers=1, val_fraction=0.25, in_memory="never")
    found = open_data(spec)
    return found.train.read(0, VIEW)


def write_arrays(folder: Path) -> None:
    draw = np.random.default_rng(0)

    def idx(array: np.ndarray) -> bytes:
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        return head + array.astype(np.uint8).tobytes()

    for name, packed in (("plain", bytes), ("gz", partial(gzip.compress, mtime=0))):
        root, end = folder / name / HOME, ".gz" if name == "gz" else ""
        root.mkdir(parents=True)
        for prefix in ("train", "t10k"):
            images = draw.integers(0, 256, (8, 7, 6))
            (root / f"{prefix}-images-idx3-ubyte{end}").write_bytes(packed(idx(images)))
            labels = idx(np.arange(8) % 3)
            (root / f"{prefix}-labels-idx1-ubyte{end}").write_bytes(packed(labels))


def write_cifar(folder: Path) -> None:
    draw = np.random.default_rng(0)
    ten, hundred = [f"data_batch_{n}" for n in range(1, 6)], ["train"]
    for name, train, test, meta, key, names in (
        ("ten", ten, "test_batch", "batches.meta", "labels", "label_names"),
        ("hundred", hundred, "test", "meta", "fine_labels", "fine_label_names"),
    ):
        for protocol in (2, 4):
            root = folder / f"{name}-{protocol}" / HOME
            root.mkdir(parents=True)
            for part in (*train, test):
                pixels = draw.integers(0, 256, (3, 3072), np.uint8)
                batch = {"data": pixels, key: [0, 1, 1], "filenames": ["a", "b", "c"]}
                (root / part).write_bytes(pickle.dumps(batch, protocol))
            (root / meta).write_bytes(pickle.dumps({names: list(CLASSES)}, protocol))
    root = folder / "binary" / HOME
    root.mkdir(parents=True)
    for part in (*ten, "test_batch"):
        rows = draw.integers(0, 2, (3, 3073), np.uint8)
        (root / f"{part}.bin").write_bytes(rows.tobytes())
    (root / "batches.meta.txt").write_text("ant\nbee\n")


def write_packs(folder: Path) -> None:
    root = _folder(folder / "raw" / HOME)
    spec = DataSpec(source=str(root))
    (folder / "file").mkdir()
    pack(find_source(spec), folder / "file" / "set.pack", 16, quarantine=Quarantine.of(spec))
    shutil.rmtree(folder / "raw")
    data = (folder / "file" / "set.pack").read_bytes()
    *_, offset, size, _ = HEADER.unpack(data[: HEADER.size])
    (folder / "index").mkdir()
    (folder / "index" / "images.bin").write_bytes(data[HEADER.size : offset])
    (folder / "index" / "set.pack.json").write_bytes(data[offset : offset + size])


def packed(root: Path) -> object:
    """A packed set, or one whose index is put together again with its checksum."""
    path = root / "set.pack"
    if (root / "images.bin").is_file():
        images, text = (root / "images.bin").read_bytes(), (root / "set.pack.json").read_bytes()
        digest = hashlib.sha256(text).digest()
        offset = HEADER.size + len(images)
        head = HEADER.pack(MAGIC, VERSION, 0, offset, len(text), digest)
        path.write_bytes(head + images + text)
    found = open_pack(path)
    parts = [found.train, found.val, found.test() if found.test else None]
    for part in parts:
        for row in range(0 if part is None or part.files is None else len(part.files)):
            part.files.name(row)
            if part.files.is_stored(np.array([row]))[0]:
                part.files.read(row)
    return found


def write_lists(folder: Path) -> None:
    names = [path for path, _ in encoded_images()]
    (folder / "quarantine").mkdir()
    rows = [f"{names[0]}\ttruncated", r'"a\tb.png"' + "\twhy", "# remark", names[1]]
    (folder / "quarantine" / "list.txt").write_text(FIRST_LINE + "\n".join(rows) + "\n")


def quarantine(root: Path) -> object:
    listed = read_quarantine(root / "list.txt")
    return Quarantine("set", listed).is_listed(["ant/0.png", "é.png"])


NAMES = [f"val/ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 5)]


def write_ground_truth(folder: Path) -> None:
    from scipy.io import savemat

    kit = np.zeros(3, [("ILSVRC2012_ID", "O"), ("WNID", "O")])
    kit["ILSVRC2012_ID"], kit["WNID"] = [1, 2, 3], list(WNIDS[:3])
    meta = io.BytesIO()
    savemat(meta, {"synsets": kit})
    numbers = "1\n2\n3\n1\n"
    kit_files = [
        ("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", numbers.encode()),
        ("ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue()),
    ]
    made = {
        "kit": {"devkit.tar.gz": gzip.compress(_tar(kit_files), mtime=0)},
        "mat": {"truth.txt": numbers.encode(), "meta.mat": meta.getvalue()},
        "ids": {"truth.txt": "\n".join(WNIDS).encode()},
        "names": {
            "truth.txt": "".join(f"{n} {w}\n" for n, w in zip(NAMES, WNIDS, strict=True)).encode()
        },
        "kaggle": {
            "truth.csv": b"ImageId,PredictionString\n"
            + b"".join(b"%s,%s 1 2 3 4\n" % (n[4:-5].encode(), WNIDS[0].encode()) for n in NAMES)
        },
    }
    for name, files in made.items():
        (folder / name).mkdir()
        for path, data in files.items():
            (folder / name / path).write_bytes(data)


def ground_truth(root: Path) -> object:
    file = next(path for path in sorted(root.iterdir()) if path.suffix != ".mat")
    return read_labels(file, NAMES)


def write_signals(folder: Path) -> None:
    values = np.sin(np.arange(24 * 12, dtype=np.float32)).reshape(24, 12).round(3)
    labels = np.array([CLASSES[row % 2] for row in range(24)])
    rows = [",".join([*map(str, row), label]) for row, label in zip(values, labels, strict=True)]
    steps = [f"{a},{b},{CLASSES[row // 12]}" for row, (a, b, *_) in enumerate(values)]
    for name, lines in (("signals", rows), ("recording", ["x,y,label", *steps])):
        (folder / name).mkdir()
        (folder / name / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "arrays").mkdir()
    np.savez(folder / "arrays" / "signals.npz", x=values, y=labels)


def signals(root: Path) -> object:
    (path,) = root.iterdir()
    spec = SignalSpec(window=4 if path.name == "recording.csv" else 0)
    data = DataSpec(source=str(path), val_fraction=0.25, test_fraction=0.25)
    return open_signals(data, spec).splits["train"].get_batch(np.array([0]), np.array([0]))


def write_texts(folder: Path) -> None:
    (folder / "text").mkdir()
    (folder / "text" / "text.txt").write_text(
        "Shall I compare thee to a summer's day? \u00e9\n" * 9
    )


def text(root: Path) -> object:
    data = DataSpec(source=str(root / "text.txt"), val_fraction=0.25, test_fraction=0.25)
    return open_text(data, 16).splits["train"].get_batch(np.array([0]), np.array([3]))


READERS = (
    Reader("archives", write_archives, (source, splits), share=90),
    Reader("webdataset", write_webdataset, (source, streamed), share=30),
    Reader(
        "parquet and arrow", write_parquet, (source,), ("*.parquet", "*.arrow", "*.json"), share=25
    ),
    Reader("streamed parquet", write_parquet, (streamed,), ("*.parquet",), share=25),
    Reader("tables", write_tables, (table,), ("*.csv", "*.tsv", "*.txt"), share=60),
    Reader("idx", write_arrays, (source, splits), share=30),
    Reader("cifar", write_cifar, (source,), share=50),
    Reader("packed sets", write_packs, (packed,), share=40),
    Reader("quarantine lists", write_lists, (quarantine,), share=15),
    Reader("imagenet ground truth", write_ground_truth, (ground_truth,), share=30),
    Reader("signals", write_signals, (signals,), share=40),
    Reader("texts", write_texts, (text,), share=10),
)
