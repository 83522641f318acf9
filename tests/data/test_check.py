"""`resnets data check`: every sort of finding, duplicates, and the files that are written."""

import csv
import io
import os
import re
import shutil
import struct
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from malformed_images import png_of
from PIL import Image

from resnets.cli.main import main
from resnets.config import DataSpec
from resnets.data import DataError, open_data
from resnets.data.check.duplicates import MAX_CANDIDATES, ImageHashes, find_identical, propose_pairs
from resnets.data.check.image import check_image, make_thumbnail, perceptual_hash
from resnets.data.check.run import CheckReport, check_data
from resnets.data.finding_kinds import kinds_by_name

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Pillow's, of large images
UNDECODABLE = {"unreadable", "truncated", "bomb"}


def scene(seed: int, size: tuple[int, int] = (128, 96)) -> Image.Image:
    """An image of smooth colours, unlike those of other seeds, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """root/{train,val,test}/{ant,bee}, six sound images each, all different."""
    root = tmp_path / "root"
    for number in range(36):
        part, name = ("train", "val", "test")[number % 3], ("ant", "bee")[number % 2]
        save(scene(number), root / part / name / f"{number:02}.png")
    return root


def found(report: CheckReport) -> set[tuple[str, str]]:
    return {(each.kind.name, each.path) for each in report.findings}


def check(source: Path, **options) -> CheckReport:
    return check_data(DataSpec(source=str(source), workers=2), **options)


def test_a_valid_set_has_no_findings(tree: Path) -> None:
    report = check(tree)
    assert not report.findings
    assert report.images == {"test": 12, "val": 12, "train": 12}
    assert report.broken == 0


def test_each_kind_of_unusual_image(tree: Path) -> None:
    ant = tree / "train" / "ant"
    half = save(scene(100), ant / "half.jpg", quality=95)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    save(scene(101), ant / "half.png")
    (ant / "half.png").write_bytes((ant / "half.png").read_bytes()[:900])
    (ant / "empty.png").touch()
    (ant / "text.jpg").write_text("<html>404</html>")
    os.mkfifo(ant / "pipe.png")
    (ant / "loop.png").symlink_to("loop.png")
    (ant / "bomb.png").write_bytes(png_of(60_000, 60_000))
    (ant / "large.png").write_bytes(png_of(12_000, 9_000))
    save(scene(102), ant / "png.jpg", format="PNG")
    save(scene(103), ant / "small.png")
    Image.open(ant / "small.png").resize((15, 90)).save(ant / "small.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(scene(104), ant / "turned.jpg", exif=exif)
    save(scene(105).convert("CMYK"), ant / "print.jpg")
    gray = np.asarray(scene(106).convert("L")).astype(np.uint16) * 257
    save(Image.fromarray(gray), ant / "deep.png")
    save(scene(107).convert("P"), ant / "colours.gif")
    save(scene(108), ant / "moving.webp", save_all=True, append_images=[scene(109), scene(110)])
    (ant / "notes.txt").write_text("notes")
    (ant / "more.txt").write_text("notes")
    (tree / "train" / "cow").mkdir()
    (ant / "folder.png").mkdir()
    save(scene(111), tree / "train" / "stray.png")
    save(scene(112), tree / "top.png")
    report = check(tree)
    below = "train/ant/"
    assert found(report) == {
        ("truncated", f"{below}half.jpg"),
        ("truncated", f"{below}half.png"),
        ("unreadable", f"{below}empty.png"),
        ("unreadable", f"{below}text.jpg"),
        ("not-an-image", f"{below}pipe.png"),
        ("unreadable", f"{below}loop.png"),
        ("bomb", f"{below}bomb.png"),
        ("bomb", f"{below}large.png"),
        ("wrong-suffix", f"{below}png.jpg"),
        ("tiny", f"{below}small.png"),
        ("rotated", f"{below}turned.jpg"),
        ("cmyk", f"{below}print.jpg"),
        ("16-bit", f"{below}deep.png"),
        ("palette", f"{below}colours.gif"),
        ("animated", f"{below}moving.webp"),
        ("not-an-image", f"{below}more.txt"),
        ("empty-class", "train/cow"),
        ("layout", ""),
        ("odd-folder", f"{below}folder.png"),
        ("stray", "train/stray.png"),
        ("stray", "top.png"),
    }
    details = {each.path: each.detail for each in report.findings}
    assert "pipe or device" in details[f"{below}pipe.png"]
    assert details[f"{below}loop.png"] == "Too many levels of symbolic links"
    assert details[f"{below}large.png"] == "12,000x9,000 px"
    assert details[f"{below}moving.webp"] == "3 frames"
    assert details[f"{below}more.txt"].startswith("and 1 more called .txt")
    assert details[""].startswith("train/cow: a class without images; add some or remove the")
    assert report.broken == 7
    assert {each.kind.name for each in report.quarantine()} == UNDECODABLE
    assert {(each.part, each.label) for each in report.quarantine()} == {("train", "ant")}
    assert len(check(tree, tiny=16).findings) == len(check(tree, tiny=15).findings) + 1


def test_sixteen_bits_per_channel_are_detected_although_pillow_returns_eight() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    rows = np.random.default_rng(0).integers(0, 256, (20, 1 + 20 * 3 * 2), np.uint8)
    rows[:, 0] = 0  # no filter
    header = struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows.tobytes()))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    assert [kind.name for kind, _ in check_image(data, "a.png", 1).problems] == ["16-bit"]


def test_duplicates_within_and_across_splits(tree: Path) -> None:
    first = tree / "train" / "ant" / "00.png"
    shutil.copy(first, tree / "train" / "ant" / "copy.png")
    shutil.copy(first, tree / "train" / "bee" / "other-class.png")
    shutil.copy(tree / "test" / "ant" / "02.png", tree / "train" / "ant" / "of-test.png")
    shutil.copy(tree / "test" / "ant" / "02.png", tree / "val" / "ant" / "of-test.png")
    Image.open(tree / "val" / "bee" / "01.png").save(tree / "train" / "bee" / "of-val.bmp")
    kept = Image.open(tree / "test" / "bee" / "05.png")
    save(kept.resize((96, 72)), tree / "train" / "bee" / "saved-again.jpg", quality=60)
    save(Image.open(first), tree / "train" / "ant" / "zz.jpg", quality=60)
    report = check(tree)
    found = {each.path: (each.kind.name, each.other_image, each.detail) for each in report.findings}
    assert {path: entry[:2] for path, entry in found.items()} == {
        "train/ant/copy.png": ("duplicate", "train/ant/00.png"),
        "train/bee/other-class.png": ("duplicate", "train/ant/00.png"),
        "train/ant/of-test.png": ("leak", "test/ant/02.png"),
        "val/ant/of-test.png": ("leak", "test/ant/02.png"),
        "train/bee/of-val.bmp": ("leak", "val/bee/01.png"),
        "train/bee/saved-again.jpg": ("near-leak", "test/bee/05.png"),
        "train/ant/zz.jpg": ("near-duplicate", "train/ant/00.png"),
    }
    said = {path: entry[2] for path, entry in found.items()}
    assert said["train/ant/copy.png"] == "same bytes as train/ant/00.png"
    assert said["train/bee/other-class.png"].endswith("which is labeled ant")
    assert said["train/bee/of-val.bmp"] == "same pixels as val/bee/01.png"
    assert re.fullmatch(
        r"differs by \d\.\d of 255 from test/bee/05.png", said["train/bee/saved-again.jpg"]
    )
    assert report.broken == 0
    assert report.quarantine() == []
    leaks = report.quarantine(kinds_by_name(["leak", "near-leak"]))
    assert [each.path.partition("/")[0] for each in leaks] == ["train", "train", "train", "val"]


def test_a_shape_survives_saving_and_scaling_and_few_share_it() -> None:
    shapes, near = [], 0
    for seed in range(60):
        image = scene(seed, (320, 240))
        shape = perceptual_hash(make_thumbnail(np.asarray(image)))
        buffer = io.BytesIO()
        image.resize((200, 150)).save(buffer, "JPEG", quality=50)
        again = perceptual_hash(make_thumbnail(np.asarray(Image.open(buffer).convert("RGB"))))
        near += (shape ^ again).bit_count() <= 3
        shapes.append(shape)
    assert near >= 54
    differences = [(a ^ b).bit_count() for n, a in enumerate(shapes) for b in shapes[:n]]
    assert min(differences) > 3
    flat = [np.full((40, 50, 3), value, np.uint8) for value in (0, 100, 255)]
    assert len({perceptual_hash(make_thumbnail(pixels)) for pixels in flat}) == 1


def shapes_of(words: np.ndarray, rows: np.ndarray | None = None, tones: int = 0) -> ImageHashes:
    count = len(words)
    color = np.full(count, tones, np.uint64)
    rows = np.arange(count) if rows is None else rows
    return ImageHashes(words, color, np.zeros(count, np.int64), rows)


def test_proposals_are_all_pairs_that_differ_in_at_most_three_bits() -> None:
    random = np.random.default_rng(0)
    shapes = random.integers(0, 1 << 63, 300, np.uint64)
    for row in range(0, 300, 3):  # neighbours at 1 to 5 bits
        flips = random.choice(64, 1 + row // 3 % 5, replace=False)
        shapes[row + 1] = shapes[row] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    shapes[299] = shapes[5]
    rows = np.sort(random.permutation(1000)[:300]).astype(np.int64)
    wanted = {
        (int(rows[j]), int(rows[i]))
        for i in range(300)
        for j in range(i)
        if (int(shapes[i]) ^ int(shapes[j])).bit_count() <= 3
    }
    assert len(wanted) >= 61
    found = propose_pairs(shapes_of(shapes, rows))
    assert set(found.pairs) == wanted
    assert found.crowded == 0
    content = np.array([7, 3, 7, 7, 9, 3], np.uint64)
    assert list(find_identical(content)) == [(0, 2), (0, 3), (1, 5)]


@pytest.mark.parametrize("kind", ["one shape", "near shapes"])
def test_alike_images_do_not_make_all_pairs(kind: str) -> None:
    """Scans or frames of a film: all of like shape. Each is held against a bounded number."""
    random = np.random.default_rng(0)
    count = 8000
    words = np.full(count, 0x123456789ABCDEF0, np.uint64)
    if kind == "near shapes":
        for _ in range(6):
            words ^= np.uint64(1) << random.integers(0, 64, count).astype(np.uint64)
    known = shapes_of(words)
    parts = (np.arange(count) >= count // 5).astype(np.int64)
    proposed = propose_pairs(replace(known, part=parts))
    later = [other for _, other in proposed.pairs]
    assert len(proposed.pairs) > count / 10
    assert max(np.bincount(later)) <= MAX_CANDIDATES
    assert proposed.crowded > count / 10
    # What has an exact fellow in the other part is held against it first.
    words[-1] = words[0] = 0x0F0F0F0F0F0F0F0F
    assert (0, count - 1) in propose_pairs(replace(known, part=parts)).pairs


def test_other_colors_are_not_read_again() -> None:
    words = np.zeros(25, np.uint64)
    tones = np.arange(25, dtype=np.uint64) * np.uint64(0x090909)
    known = replace(shapes_of(words), color=tones)
    assert propose_pairs(known).pairs == []


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_is_checked_like_its_folder(tree: Path, tmp_path: Path, mode: str) -> None:
    bad = tree / "train" / "ant" / "00.png"
    shutil.copy(bad, tree / "train" / "ant" / "copy.png")
    bad.write_bytes(b"")
    (tree / "val" / "cow").mkdir()
    with tarfile.open(tmp_path / "set.tar", mode) as tar:
        tar.add(tree, "root")
    folder, packed = check(tree), check(tmp_path / "set.tar")
    assert found(packed) == {(kind, f"root/{path}" if path else "") for kind, path in found(folder)}
    assert packed.images == folder.images


def test_other_sources_are_checked_through_their_files(tree: Path, tmp_path: Path) -> None:
    (tree / "val" / "ant" / "04.png").write_bytes(b"no image")
    lines = [
        f"{path.relative_to(tree).as_posix()},{path.parent.name},{path.parent.parent.name}"
        for path in sorted(tree.glob("*/*/*.png"))
    ]
    table = tree / "images.csv"
    table.write_text("path,label,split\n" + "\n".join(lines), encoding="utf-8")
    report = check(table)
    assert report.images == {"test": 12, "val": 12, "train": 12}
    (finding,) = report.findings
    assert (finding.path, finding.part, finding.label) == ("val/ant/04.png", "val", "ant")
    with pytest.raises(DataError, match="not image files"):
        check(Path("digits"))
    with pytest.raises(DataError, match="no such folder or file"):
        check(tmp_path / "nothing")


def test_a_flat_folder_of_images(tmp_path: Path) -> None:
    for number in range(3):
        save(scene(number), tmp_path / "flat" / f"{number}.png")
    (tmp_path / "flat" / "1.png").write_bytes(b"x")
    report = check(tmp_path / "flat")
    assert report.images == {"": 3}
    assert ("unreadable", "1.png") in found(report)


def test_what_the_command_writes(tree: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    shutil.copy(tree / "test" / "ant" / "02.png", tree / "train" / "ant" / "leak <b>.png")
    (tree / "train" / "bee" / "03.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    code = main(["data", "check", "root", "--workers", "2"])
    printed = capsys.readouterr().out
    assert code == 3
    assert "37 images: 12 test, 12 val, 13 train" in printed
    out = tmp_path / "root-check"
    assert sorted(each.name for each in out.iterdir()) == [
        "files.csv", "quarantine.txt", "report.html",
    ]  # fmt: skip
    with (out / "files.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["finding"], row["weight"], row["other_image"]) for row in rows] == [
        ("train/ant/leak <b>.png", "leak", "leak", "test/ant/02.png"),
        ("train/bee/03.png", "unreadable", "broken", ""),
    ]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "leak &lt;b&gt;.png" in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert not re.search(r'(?:src|href)="(?!data:image|#|files.csv|quarantine.txt)', page)
    listed = (out / "quarantine.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in listed[1:]] == [
        "train/ant/leak <b>.png", "train/bee/03.png",
    ]  # fmt: skip
    spec = DataSpec(source=str(tree), in_memory="never")
    named = open_data(replace(spec, quarantine=str(out / "quarantine.txt"))).train
    assert len(named) == 11
    shutil.copy(out / "quarantine.txt", tree)
    assert open_data(spec).train.files.paths == named.files.paths
    (tree / "train" / "ant" / "leak <b>.png").unlink()
    (tree / "train" / "bee" / "03.png").unlink()
    assert main(["data", "check", "root", "--out", "again"]) == 0
    printed = capsys.readouterr().out
    assert "35 images: 12 test, 12 val, 11 train" in printed
    assert "no image is in two splits" in printed
    assert "no image is in two splits" in (tmp_path / "again" / "report.html").read_text()
    assert main(["data", "check", "root", "--exclude", "leeks"]) == 2
    assert "--exclude leeks: no such finding; did you mean leak?" in capsys.readouterr().err
    assert main(["data", "check", "root", "--quarantine", "leeks"]) == 2
    assert "data.quarantine: leeks" in capsys.readouterr().err


def test_folders_that_may_not_be_listed_are_named(tree: Path, monkeypatch) -> None:
    """The system is asked in our name for one folder less: root may list any."""
    listed = os.scandir

    def scandir(path: str) -> object:
        if Path(path) == tree / "train" / "ant":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = check(tree)
    assert ("unreadable", "train/ant") in found(report)
    assert report.images == {"test": 12, "val": 12, "train": 6}
    with pytest.raises(DataError, match="train/ant"):
        open_data(DataSpec(source=str(tree)))


def test_imagenette_and_what_is_done_to_it(shared_data: Path, tmp_path: Path) -> None:
    """Real photographs: none is alike another, and copies in another form are found."""
    root = tmp_path / "imagenette"
    with tarfile.open(shared_data / "imagenette160.tar") as tar:
        members = [member for member in tar if member.isreg()][::14]
        for number, member in enumerate(members):
            part, wnid, name = member.name.split("/")[1:]
            path = root / part / wnid / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = tar.extractfile(member).read()
            path.write_bytes(data)
            if number % 6 == 0:
                image = Image.open(io.BytesIO(data)).convert("RGB")
                smaller = image.resize((image.width * 3 // 4, image.height * 3 // 4))
                save(smaller, path.with_suffix(".again.jpg"), quality=70)
    report = check(root)
    again = {path.relative_to(root).as_posix() for path in root.glob("*/*/*.again.jpg")}
    assert len(again) >= 50
    found = {each.path: each for each in report.findings if "near" in each.kind.name}
    pairs = {frozenset((each.path, each.other_image)) for each in found.values()}
    right = {frozenset((name, name.replace(".again.jpg", ".JPEG"))) for name in again}
    assert pairs <= right
    assert len(pairs) >= 0.95 * len(right)
