"""Tables of images and labels as people bring them: read, or refused saying what was found."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from digit_sets import digit_files

from resnets.config import DataSpec
from resnets.data import DataError, open_data
from resnets.data.sources.label_table import open_table
from resnets.data.sources.open import find_source
from resnets.data.tables.columns import normalize_name
from resnets.data.tables.reader import open_table_bytes, open_table_file

WHOLE = DataSpec(val_fraction=0, test_fraction=0, in_memory="never")
NAMES = ("cat", "dog", "eel", "fox")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[Path, list[tuple[str, str]]]:
    """A folder with img/CLASS/NUMBER.png, and path and class of each."""
    root = tmp_path_factory.mktemp("tables")
    rows = []
    for number, (data, digit) in enumerate(digit_files(5)):
        path = f"img/{NAMES[digit]}/{number:03}.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
        rows.append((path, NAMES[digit]))
    return root, rows


def lines(head: str, *cells) -> str:
    return "\n".join((head, *cells)) + "\n" if head else "\n".join(cells) + "\n"


KINDS = {
    "pandas's index": lambda rows: lines(
        ",filepath,label", *(f"{i},{p},{c}" for i, (p, c) in enumerate(rows))
    ),
    "semicolons": lambda rows: lines("path;label", *(f"{p};{c}" for p, c in rows)),
    "semicolons, no header": lambda rows: lines("", *(f"{p};{c}" for p, c in rows)),
    "tabs": lambda rows: lines("Path\tLabel", *(f"{p}\t{c}" for p, c in rows)),
    "bars, quoted": lambda rows: lines("file|class", *(f'"{p}"|"{c}"' for p, c in rows)),
    "backslashes": lambda rows: lines(
        "path,label", *(f"{p},{c}".replace("/", "\\") for p, c in rows)
    ),
    "ids without suffix": lambda rows: lines("id,breed", *(f"{p[:-4]},{c}" for p, c in rows)),
    "names alone": lambda rows: lines("Image_ID,Species", *(f"{p[-7:]},{c}" for p, c in rows)),
    "stems alone": lambda rows: lines("image_id,label", *(f"{p[-7:-4]},{c}" for p, c in rows)),
    "other columns": lambda rows: lines(
        "class id,filepaths,labels,scientific name",
        *(f"{len(c)},{p},{c},{c} {c}" for p, c in rows),
    ),
    "an unknown header": lambda rows: lines("bild,tierart", *(f"{p},{c}" for p, c in rows)),
    "a trailing comma": lambda rows: lines("path,label", *(f"{p},{c}," for p, c in rows)),
    "spaces": lambda rows: lines("path , label", *(f"{p} , {c}" for p, c in rows)),
    "one hot": lambda rows: lines(
        "filename,cat,dog,eel,fox",
        *(f"{p}," + ",".join(f"{c == n:d}" for n in NAMES) for p, c in rows),
    ),
    "one hot of floats": lambda rows: lines(
        ",image," + ",".join(NAMES),
        *(f"{i},{p}," + ",".join(f"{c == n:.1f}" for n in NAMES) for i, (p, c) in enumerate(rows)),
    ),
    "minus one and one": lambda rows: lines(
        "image_id," + ",".join(NAMES),
        *(f"{p}," + ",".join("1" if c == n else "-1" for n in NAMES) for p, c in rows),
    ),
    "true and false": lambda rows: lines(
        "image_id," + ",".join(NAMES),
        *(f"{p}," + ",".join(str(c == n) for n in NAMES) for p, c in rows),
    ),
    "yes and no": lambda rows: lines(
        "image_id," + ",".join(NAMES),
        *(f"{p}," + ",".join("yes" if c == n else "No" for n in NAMES) for p, c in rows),
    ),
    "mxnet's list": lambda rows: lines("", *(f"{i}\t{c}\t{p}" for i, (p, c) in enumerate(rows))),
    "a camera called set": lambda rows: lines(
        "path,label,set", *(f"{p},{c},{i % 3}" for i, (p, c) in enumerate(rows))
    ),
}


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        *((kind, "utf-8") for kind in KINDS),
        *(("tabs", encoding) for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")),
        *(("semicolons, no header", encoding) for encoding in ("utf-8-sig", "utf-16")),
    ],
)
def test_it_is_read(images, kind: str, encoding: str) -> None:
    root, rows = images
    file = root / "set.csv"
    file.write_bytes(KINDS[kind](rows).encode(encoding))
    found = open_data(replace(WHOLE, source=str(file))).train
    assert found.classes == NAMES
    assert [NAMES[label] for label in found.labels] == [c for _, c in sorted(rows)]
    for number, (path, _) in enumerate(sorted(rows)):
        assert found.files.read(number) == (root / path).read_bytes()


@pytest.mark.parametrize("suffix", [".tsv", ".tab", ".lst", ".TXT"])
def test_suffixes_of_tables(images, suffix: str) -> None:
    root, rows = images
    file = root / f"set{suffix}"
    file.write_text(KINDS["tabs"](rows))
    assert open_data(replace(WHOLE, source=str(file))).classes == NAMES


@pytest.mark.parametrize(
    ("head", "values"),
    [
        ("filename,label,data set", ("train", "train", "train", "valid", "test")),
        ("PATH,LABEL,SPLIT", ("TRAIN", "Train", "training", "Validation", "TEST")),
        ("path,label,subset", ("train_set", "train", "train", "dev", "testing")),
        ("path,label,Partition", ("train", "train", "train", "val", "test")),
        ("", ("train", "train", "train", "val", "test")),
    ],
)
def test_splits(images, head: str, values: tuple[str, ...]) -> None:
    root, rows = images
    file = root / "split.csv"
    file.write_text(lines(head, *(f"{p},{c},{values[i % 5]}" for i, (p, c) in enumerate(rows))))
    found = open_data(replace(WHOLE, source=str(file)))
    assert (len(found.train), len(found.val), len(found.test())) == (12, 4, 4)


def test_a_column_of_true_and_false_splits(images) -> None:
    root, rows = images
    file = root / "flags.csv"
    file.write_text(
        lines("name,label,is_valid", *(f"{p},{c},{i % 5 == 4}" for i, (p, c) in enumerate(rows)))
    )
    found = open_data(replace(WHOLE, source=str(file)))
    assert (len(found.train), len(found.test())) == (16, 4)


def test_the_interpretation_of_columns_is_reported(images) -> None:
    root, rows = images
    file = root / "said.csv"
    file.write_text(KINDS["ids without suffix"](rows))
    said = "; ".join(open_data(replace(WHOLE, source=str(file))).summary.notes)
    assert "'breed'" in said
    assert "20 images" in said


def test_whole_numbers_as_pandas_writes_them(images) -> None:
    root, rows = images
    file = root / "floats.csv"
    file.write_text(lines("path,label", *(f"{p},{len(c) % 2}.0" for p, c in rows)))
    with pytest.raises(DataError, match=r"one class only \(1\)"):
        open_data(replace(WHOLE, source=str(file)))
    file.write_text(lines("path,label", *(f"{p},{NAMES.index(c)}.0" for p, c in rows)))
    assert open_data(replace(WHOLE, source=str(file))).classes == tuple("0123")


def test_it_is_refused(images) -> None:
    root, rows = images
    file = root / "bad.csv"

    def refused(text: str, words: str) -> None:
        file.write_text(text)
        with pytest.raises(DataError, match=words) as caught:
            open_data(replace(WHOLE, source=str(file)))
        assert "\n" not in str(caught.value)

    late = [f"{p},{c == 'cat':d},{c != 'cat':d}" for p, c in rows[:-1]]
    for odd in ("-1,1", "0.5,1", ",1"):  # CheXpert's -1 is "uncertain", after many rows of 0 and 1
        text = lines("path,cat,other", *late * 11, f"{rows[-1][0]},{odd}")
        refused(text, rf"line {len(late) * 11 + 2}: .*cat")
    unknown = lines("path,kind,colour", *(f"{p},{c},{c[::-1]}" for p, c in rows))
    refused(unknown, "line 1: .* columns are path, kind, colour, rename one to label")
    with pytest.raises(DataError) as caught:
        open_data(replace(WHOLE, source=str(file)))
    assert "multi-label" not in str(caught.value)
    both = lines("file,cat,dog", *(f"{p},1,1" for p, _ in rows))
    file.write_text(both)
    with pytest.raises(DataError, match="line 2: the classes cat, dog at once"):
        open_data(replace(WHOLE, source=str(file), labels="single"))
    refused(lines("file,cat,dog", *(f"{p},0,0" for p, _ in rows)), "line 2: no class")
    real = lines("path,age", *(f"{p},{i / 7}" for i, (p, _) in enumerate(rows * 2)))
    refused(real, "label|real numbers|already")
    gone = lines("id,label", *(f"{p[:-4]}x,{c}" for p, c in rows))
    refused(gone, "line 2: no file .*19 more are missing")
    elsewhere = lines("path,label", *(f"other/{p[-7:]},{c}" for p, c in rows))
    refused(elsewhere, "line 2: no file")


@pytest.mark.parametrize("comment", ["# 2 classes", "# by me, in 2024", "#", "# a\n# b, c\n# d"])
def test_comments_before_the_header_are_refused_as_such(images, comment: str) -> None:
    root, rows = images
    text = lines("path,label", *(f"{name},{label}" for name, label in rows))

    def opened(text: str):
        return open_table_bytes(text.encode(), "set.csv", lambda cell: (root / cell).is_file())

    with pytest.raises(DataError, match="line 1 begins with #"):
        opened(f"{comment}\n{text}")
    table = opened(f"#{text}")
    assert table is not None
    assert [row.label for row in table.rows()] == [each for _, each in rows]


def test_an_id_that_several_images_have_is_refused(tmp_path: Path) -> None:
    (data, _), *_ = digit_files(1)
    for path in ("a/1.png", "b/1.png", "b/2.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    file = tmp_path / "set.csv"
    file.write_text("id,label\n1,x\n2,y\n")
    with pytest.raises(DataError, match=r"2.*1.*a/1\.png.*b/1\.png"):
        open_data(replace(WHOLE, source=str(file)))
    file.write_text("id,label\nb/1,x\n2,y\n")
    assert len(open_data(replace(WHOLE, source=str(file))).train) == 2


def test_an_image_has_one_name_however_it_is_written(images) -> None:
    root, rows = images
    file = root / "spelled.csv"
    (one, label), *_ = rows
    for other in (f"./{one}", f"img//{one[4:]}", str(root / one)):
        file.write_text(lines("path,label", f"{one},{label}", f"{other},{label}"))
        with pytest.raises(DataError, match="line 3: .* is in line 2 already"):
            open_data(replace(WHOLE, source=str(file)))


def test_a_table_inside_an_archive_is_the_same() -> None:
    data = "filename,cat,dog\r\na.jpg,1,0\r\nb.jpg,0,1\r\n".encode("utf-16")
    table = open_table_bytes(data, "set.zip:train/_classes.csv", {"a.jpg", "b.jpg"}.__contains__)
    assert table is not None
    assert [(row.path, row.label) for row in table.rows()] == [
        ("a.jpg", ("cat",)),
        ("b.jpg", ("dog",)),
    ]
    assert open_table_bytes(b"\n\n", "x", bool) is None


def test_a_long_table_is_read_row_by_row(tmp_path: Path) -> None:
    file = tmp_path / "long.csv"
    file.write_text("id,path\n" + "".join(f"{i},{i}.jpg\n" for i in range(200_000)))
    table = open_table_file(file, lambda cell: cell.endswith(".jpg"), labeled=False)
    assert table is not None
    assert sum(1 for _ in table.rows()) == 200_000


def test_names_of_columns() -> None:
    assert {normalize_name(name) for name in ("File Names", "file_name", "FileName")} == {
        "filename"
    }
    assert normalize_name("class") == "class"


def flat(root: Path, rows: list[tuple[str, str]], folder: str) -> list[tuple[str, str]]:
    """The images of `rows` in one folder below a new `root`; their names and classes."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    named = []
    for number, (path, label) in enumerate(rows):
        data = Path(path).read_bytes()
        (root / folder / f"{number:03}.png").write_bytes(data)
        named.append((f"{number:03}", label))
    return named


@pytest.mark.parametrize(
    ("folder", "table", "source"),
    [
        ("images", "labels.csv", "."),
        ("images", "metadata.csv", "."),
        ("pics", "labels.csv", "pics"),
        ("pics", "pics.tsv", "pics"),
        ("", "labels.csv", "."),
    ],
)
@pytest.mark.parametrize("splits", [False, True])
def test_a_folder_with_a_table(images, tmp_path, folder, table, source, splits) -> None:
    base, rows = images
    named = flat(tmp_path, [(str(base / path), label) for path, label in rows], folder)
    mark = "\t" if table.endswith("tsv") else ","
    text = mark.join(("image_id", "label", *["split"] * splits)) + "\n"
    for number, (stem, label) in enumerate(named):
        role = "test" if number % 5 == 4 else "train"
        text += mark.join((stem, label, *[role] * splits)) + "\n"
    (tmp_path / table).write_text(text)
    spec = replace(WHOLE, source=str(tmp_path / source))
    found = open_data(spec)
    assert found.classes == NAMES
    assert len(found.train) == (16 if splits else 20)
    assert (len(found.test()) if splits else found.test()) == (4 if splits else None)


def test_images_that_the_table_does_not_name_are_counted(images, tmp_path) -> None:
    base, rows = images
    named = flat(tmp_path, [(str(base / path), label) for path, label in rows], "images")
    text = "id,label\n" + "".join(f"{stem},{label}\n" for stem, label in named[:17])
    (tmp_path / "labels.csv").write_text(text)
    source = find_source(replace(WHOLE, source=str(tmp_path)))
    assert len(source.train.labels) == 17
    assert [count for (why, _), count in source.skipped.counts.items() if "name" in why] == [3]


def test_class_folders_are_not_overruled_by_a_table(images, tmp_path) -> None:
    base, rows = images
    for path, label in rows:
        target = tmp_path / label / Path(path).name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((base / path).read_bytes())
    (tmp_path / "labels.csv").write_text("file,label\nx.png,zebra\ny.png,yak\n")
    assert open_data(replace(WHOLE, source=str(tmp_path))).classes == NAMES


def test_a_label_made_of_others_is_several(images) -> None:
    root, rows = images
    file = root / "joined.csv"
    several = [(path, "cat,dog" if path == rows[7][0] else label) for path, label in rows]
    file.write_text(lines("path,label", *(f'{p},"{c}"' for p, c in several)))
    with pytest.raises(DataError, match="'cat,dog'.*19"):
        open_data(replace(WHOLE, source=str(file)))
    small = [(path, f"{label}, small") for path, label in rows]
    file.write_text(lines("path,label", *(f'{p},"{c}"' for p, c in small)))
    assert open_data(replace(WHOLE, source=str(file))).classes[0] == "cat, small"


def test_lists_separated_by_spaces(images) -> None:
    root, rows = images
    file = root / "list.txt"
    file.write_text(lines("", *(f"{p}  {c}" for p, c in rows)))
    assert open_data(replace(WHOLE, source=str(file))).classes == NAMES


def test_damaged_tables_are_read_or_named(images) -> None:
    root, rows = images
    luck, file = random.Random(0), root / "damaged.csv"
    pieces = (b'"', b"\r", b"\n", b",", b";", b"\0", b"\xff\xfe", b"a" * 200_000, b"../", b"\t\t")
    kinds, said = [make(rows).encode() for make in KINDS.values()], []
    for _ in range(300):
        data = bytearray(luck.choice(kinds))
        for _ in range(luck.randint(1, 6)):
            place = luck.randrange(len(data) + 1)
            if luck.random() < 0.3:
                data[place:place] = luck.choice(pieces)
            elif luck.random() < 0.5:
                data[place : place + 1] = bytes([luck.randrange(256)])
            else:
                del data[place : place + luck.randrange(30)]
        file.write_bytes(data)
        try:
            open_table(file)
        except DataError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all("damaged.csv" in each and "\n" not in each for each in said)


def test_a_spreadsheet_is_refused_with_the_remedy(tmp_path) -> None:
    (tmp_path / "set.xlsx").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DataError, match="CSV"):
        open_data(replace(WHOLE, source=str(tmp_path / "set.xlsx")))
