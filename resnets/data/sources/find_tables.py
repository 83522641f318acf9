"""Which Parquet or Arrow files of a folder are a set of images, and which split each file is of.

A folder is such a set where these files are its images' home. Class folders of images are a set of
image files, whatever tables lie beside them. Every table is of a split, or the set is refused by
the name of the file; all other files are counted.
"""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from resnets.data.errors import DataError
from resnets.data.files.folder import read_file
from resnets.data.files.missing_shards import missing_shards
from resnets.data.files.walk import LeftOut, file_head, suffix_of, walk_folder, why_not_image
from resnets.data.layout.folder_names import role_within
from resnets.data.tables.arrow_columns import find_image_column
from resnets.utils.printable import printable

TABLES = (".parquet", ".arrow")
ARROW_MAGIC = b"ARROW1"
SAVED_FILES = frozenset({"dataset_dict.json", "state.json", "dataset_info.json"})
BESIDE = "image beside the tables"
Kind = Literal["parquet", "arrow", "saved"]


@dataclass(frozen=True)
class TabularFiles:
    """The tables of a set: `paths` relative to the folder `root`, sorted.

    kind: "saved" is what `save_to_disk` of the library `datasets` wrote. left_out: other files.
    alone: whether a file was given, which is of no split, whatever it is called.
    """

    root: Path
    kind: Kind
    paths: tuple[str, ...]
    left_out: LeftOut = field(default_factory=LeftOut)
    alone: bool = False

    def splits(self) -> dict[str, list[str]]:
        """Paths by split ("train", "val", "test", "trainval"), or all under "" where none says one.

        DataError names a file of no split beside files of splits, or one of two.
        """
        if self.kind == "saved" or self.alone:
            return {"": list(self.paths)}
        if (listed := self._by_card()) is not None:
            return listed
        roles = {path: self._role(path) for path in self.paths}
        found = {
            role: [path for path in self.paths if roles[path] == role]
            for role in sorted(set(roles.values()))
        }
        if "" in found and len(found) > 1:
            others = ", ".join(role for role in found if role)
            raise DataError(
                f"{self.root / printable(found[''][0])}: its name says no split, but other files"
                f" are {others}; put train, val or test into its name, or move it away"
            )
        return found

    def _by_card(self) -> dict[str, list[str]] | None:
        """Paths by split as the head of README.md lists them, as on the Hub; None without a list.

        DataError names a file that is not in the list.
        """
        configs = _card(self.root / "README.md").get("configs")
        listed = [each for each in configs or () if isinstance(each, dict) and "data_files" in each]
        if not listed:
            return None
        where = self.root / "README.md"
        if len(listed) > 1:
            names = ", ".join(str(each.get("config_name")) for each in listed)
            raise DataError(f"{where}: lists several sets, {names}; give the folder of one")
        found: dict[str, list[str]] = {}
        for split, pattern in _patterns(listed[0]["data_files"]):
            every = set(glob.glob(pattern, root_dir=self.root, recursive=True))
            chosen = found.setdefault(split, [])
            chosen += [path for path in self.paths if path in every and path not in chosen]
        known = [path for paths in found.values() for path in paths]
        for path in self.paths:
            if known.count(path) != 1:
                times = "more than once" if path in known else "not"
                raise DataError(
                    f"{self.root / printable(path)}: listed {times} among the files of {where};"
                    " correct the list, or move the file away"
                )
        return found

    def warnings(self, rows: Mapping[str, int]) -> tuple[str, ...]:
        """Where images may be missing: numbered files that are not there, and splits that have
        other `rows`, by their titles, than README.md states."""
        if self.kind == "saved" or self.alone:
            return ()
        found = [f"{self.root.name}: {each}" for each in missing_shards(self.paths)]
        stated = _stated_rows(_card(self.root / "README.md"))
        if set(rows) == {""}:  # one table, perhaps with a column of splits
            stated = {"": sum(stated.values())} if stated else {}
        here = {role_within(title) or title: count for title, count in rows.items()}
        for title, count in stated.items():
            have = here.get(role_within(title) or title, 0)
            if have != count:
                found.append(
                    f"{self.root.name}/README.md states {count:,} images"
                    f"{f' of {title}' * bool(title)}, but there are {have:,}; fetch the set again"
                )
        return tuple(found)

    def absolute(self, paths: Sequence[str]) -> list[str]:
        """The paths of files for those who open them."""
        root = self.root.resolve()
        return [str(root / path) for path in paths]

    def _role(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        words = [*folder.split("/"), posixpath.splitext(name)[0]]
        if partition := next((word for word in words[:-1] if "=" in word), None):
            raise DataError(
                f"{self.root / printable(path)}: a folder called COLUMN=VALUE ({partition}) is not"
                " read as a column; write the column into the files"
            )
        roles = sorted({role for word in words if (role := role_within(word)) is not None})
        if len(roles) > 1:
            raise DataError(
                f"{self.root / printable(path)}: its path says several splits, {', '.join(roles)};"
                " rename it"
            )
        return roles[0] if roles else ""


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or all(
        (folder / name).is_file() for name in ("state.json", "dataset_info.json")
    )


def find_tabular(path: Path) -> TabularFiles | None:
    """The tables of a file or folder; None where they are not what holds its images.

    Raises DataError for a folder that mixes Parquet and Arrow, or what `save_to_disk` wrote and
    class folders of images.
    """
    if path.is_file():
        if suffix_of(path.name) not in TABLES:
            return None
        return TabularFiles(path.parent, _kind(path.name), (path.name,), alone=True)
    saved, tables, left_out = is_saved(path), list[str](), LeftOut()
    folders: set[str] = set()
    images, tars = 0, 0
    for found in walk_folder(path, left_out):
        if found.endswith("/"):
            continue
        name = posixpath.basename(found)
        if suffix_of(name) in TABLES:
            tables.append(found)
            continue
        tars += suffix_of(name) == ".tar"
        reason = why_not_image(found, partial(file_head, path / found))
        if reason is None:
            images += 1
            folders.add(posixpath.dirname(found))
            if len(folders - {""}) > 1:  # class folders
                if not saved:
                    return None
                raise DataError(
                    f"{path}: holds folders of images and what `datasets` saved; move one away"
                )
        if not (saved and name in SAVED_FILES):
            left_out.add(reason or BESIDE, found)
    if saved:
        return TabularFiles(path, "saved", tuple(sorted(tables)), left_out)
    beside = images or tars  # img2dataset writes a table of what is in each tar
    if not tables or (beside and not any(_holds_images(path / table) for table in tables)):
        return None
    kinds = {_kind(table): table for table in tables}
    if len(kinds) > 1:
        raise DataError(
            f"{path}: holds Parquet and Arrow files ({', '.join(sorted(kinds.values()))}); give a"
            " folder of one kind"
        )
    return TabularFiles(path, next(iter(kinds)), tuple(sorted(tables)), left_out)


def is_file_form(file: Path | str) -> bool:
    """Whether an Arrow file has the file form (Feather V2), not the stream form."""
    return file_head(Path(file)).startswith(ARROW_MAGIC)


def file_features(file: Path | str) -> Any:
    """The columns of a Parquet or Arrow file as `datasets` sees them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    if suffix_of(str(file)) == ".parquet":
        return Features.from_arrow_schema(pq.read_schema(file))
    with pa.memory_map(str(file)) as stream:
        opened = pa.ipc.open_file if is_file_form(file) else pa.ipc.open_stream
        schema = opened(stream).schema
    return Features.from_arrow_schema(schema)


def check_same_classes(files: Sequence[tuple[str, Any]], label: str) -> None:
    """DataError where files of one split number their classes otherwise: (file, features) each.

    `datasets` takes the names of the first file for all.
    """
    first: tuple[str, Any] | None = None
    for file, features in files:
        names = getattr(features.get(label), "names", None)
        if first is None:
            first = file, names
        elif names != first[1]:
            raise DataError(
                f"{file}: its column {label} numbers other classes than that of {first[0]}, or in"
                " another order; write both with the same ClassLabel"
            )


def _card(file: Path) -> dict[str, Any]:
    """The head of a data set's README.md, empty where there is none."""
    if not file.is_file():
        return {}
    import yaml

    text = read_file(file).decode("utf-8", "replace")
    head = re.match(r"---[ \t]*\r?\n(.*?)\n---[ \t]*\r?(\n|$)", text, re.DOTALL)
    try:
        found = yaml.safe_load(head[1]) if head else {}
    except yaml.YAMLError as error:
        raise DataError(f"{file}: its head is not YAML ({' '.join(str(error).split())})") from None
    return found if isinstance(found, dict) else {}


def _stated_rows(card: Mapping[str, Any]) -> dict[str, int]:
    """Images of each split by the head of README.md; none where it is of several sets."""
    stated = card.get("dataset_info")
    if isinstance(stated, list) and len(stated) == 1:
        stated = stated[0]
    splits = stated.get("splits") if isinstance(stated, dict) else None
    return {
        str(each["name"]): each["num_examples"]
        for each in (splits if isinstance(splits, list) else ())
        if isinstance(each, dict) and "name" in each and isinstance(each.get("num_examples"), int)
    }


def _patterns(listed: Any) -> Iterator[tuple[str, str]]:
    """Split and pattern of each entry of data_files, in any of the forms that it may have."""
    if isinstance(listed, dict):
        listed = [{"split": split, "path": path} for split, path in listed.items()]
    for entry in [listed] if isinstance(listed, str) else listed:
        split, paths = (
            (str(entry.get("split", "train")), entry.get("path", []))
            if isinstance(entry, dict)
            else ("train", entry)
        )
        for path in [paths] if isinstance(paths, str) else paths:
            yield split, str(path)


def escaped(path: str) -> str:
    """A path for `datasets`, which takes brackets and stars for patterns."""
    return glob.escape(path)


def _kind(name: str) -> Kind:
    return "parquet" if suffix_of(name) == ".parquet" else "arrow"


def _holds_images(file: Path) -> bool:
    """Whether a table has a column of images; true for one that cannot be read, to say so."""
    try:
        features = file_features(file)
    except Exception:  # not installed, damaged: said when the set is opened
        return True
    try:
        find_image_column(features, str(file))
    except DataError:
        return False
    return True
