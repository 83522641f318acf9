"""Find the Parquet or Arrow files of a folder that contain images, and the split of each file.

A folder is such a data set if these files contain its images; a folder of class folders of images
is a data set of image files even if it contains tables. Every table must belong to a split, or an
error names the file; all other files are counted.
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
from resnets.data.files.walk import SkippedFiles, file_head, suffix_of, walk_folder, why_not_image
from resnets.data.layout.folder_names import role_within
from resnets.data.tables.arrow_columns import find_image_column
from resnets.utils.printable import printable

TABLES = (".parquet", ".arrow")
ARROW_MAGIC = b"ARROW1"
SAVED_FILES = frozenset({"dataset_dict.json", "state.json", "dataset_info.json"})
NOT_IN_TABLE = "image not in a table"
TableFormat = Literal["parquet", "arrow", "saved"]


@dataclass(frozen=True)
class TabularFiles:
    """The tables of a data set: `paths` relative to the folder `root`, sorted.

    kind: "saved" for files written by `save_to_disk` of the library `datasets`. skipped: other
    files. alone: a single file was given, which belongs to no split regardless of its name.
    """

    root: Path
    kind: TableFormat
    paths: tuple[str, ...]
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    alone: bool = False

    def splits(self) -> dict[str, list[str]]:
        """Return the paths by split ("train", "val", "test", "trainval"), or all under "".

        Raises DataError for a file of no split next to files of splits, or of two splits.
        """
        if self.kind == "saved" or self.alone:
            return {"": list(self.paths)}
        if (listed := self._read_card_splits()) is not None:
            return listed
        roles = {path: self._find_role(path) for path in self.paths}
        found = {
            role: [path for path in self.paths if roles[path] == role]
            for role in sorted(set(roles.values()))
        }
        if "" in found and len(found) > 1:
            others = ", ".join(role for role in found if role)
            raise DataError(
                f"{self.root / printable(found[''][0])}: its name has no split, but other files"
                f" are {others}; put train, val or test into its name, or move it away"
            )
        return found

    def _read_card_splits(self) -> dict[str, list[str]] | None:
        """Return the paths by split as listed in the header of README.md; None without a list.

        Raises DataError for a file that is not in the list.
        """
        configs = _read_card(self.root / "README.md").get("configs")
        listed = [each for each in configs or () if isinstance(each, dict) and "data_files" in each]
        if not listed:
            return None
        where = self.root / "README.md"
        if len(listed) > 1:
            names = ", ".join(str(each.get("config_name")) for each in listed)
            raise DataError(f"{where}: lists several data sets, {names}; give the folder of one")
        found: dict[str, list[str]] = {}
        for split, pattern in _iter_patterns(listed[0]["data_files"]):
            matching = set(glob.glob(pattern, root_dir=self.root, recursive=True))
            chosen = found.setdefault(split, [])
            chosen += [path for path in self.paths if path in matching and path not in chosen]
        all_listed = [path for paths in found.values() for path in paths]
        for path in self.paths:
            if all_listed.count(path) != 1:
                times = "more than once" if path in all_listed else "not"
                raise DataError(
                    f"{self.root / printable(path)}: listed {times} among the files of {where};"
                    " correct the list, or move the file away"
                )
        return found

    def warnings(self, rows: Mapping[str, int]) -> tuple[str, ...]:
        """Return warnings about images that may be missing.

        These are gaps in the numbering of files, and splits whose number of `rows` (by title)
        differs from README.md.
        """
        if self.kind == "saved" or self.alone:
            return ()
        found = [f"{self.root.name}: {each}" for each in missing_shards(self.paths)]
        stated = _read_card_rows(_read_card(self.root / "README.md"))
        if set(rows) == {""}:  # one table, perhaps with a column of splits
            stated = {"": sum(stated.values())} if stated else {}
        rows_by_role = {role_within(title) or title: count for title, count in rows.items()}
        for title, count in stated.items():
            num_rows = rows_by_role.get(role_within(title) or title, 0)
            if num_rows != count:
                found.append(
                    f"{self.root.name}/README.md states {count:,} images"
                    f"{f' of {title}' * bool(title)}, but there are {num_rows:,}; fetch the set"
                    " again"
                )
        return tuple(found)

    def absolute(self, paths: Sequence[str]) -> list[str]:
        """Return absolute paths."""
        root = self.root.resolve()
        return [str(root / path) for path in paths]

    def _find_role(self, path: str) -> str:
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
                f"{self.root / printable(path)}: its path names several splits, {', '.join(roles)};"
                " rename it"
            )
        return roles[0] if roles else ""


def is_saved(folder: Path) -> bool:
    """True if a folder was written by `save_to_disk` of `datasets`."""
    return (folder / "dataset_dict.json").is_file() or all(
        (folder / name).is_file() for name in ("state.json", "dataset_info.json")
    )


def find_tabular(path: Path) -> TabularFiles | None:
    """Return the tables of a file or folder; None if they do not contain its images.

    Raises DataError for a folder with both Parquet and Arrow files, or with files of `save_to_disk`
    and class folders of images.
    """
    if path.is_file():
        if suffix_of(path.name) not in TABLES:
            return None
        return TabularFiles(path.parent, _table_kind(path.name), (path.name,), alone=True)
    saved, tables, skipped = is_saved(path), list[str](), SkippedFiles()
    folders: set[str] = set()
    images, tars = 0, 0
    for found in walk_folder(path, skipped):
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
                    f"{path}: contains image folders as well as a data set saved by `datasets`; "
                    "move one away"
                )
        if not (saved and name in SAVED_FILES):
            skipped.add(reason or NOT_IN_TABLE, found)
    if saved:
        return TabularFiles(path, "saved", tuple(sorted(tables)), skipped)
    has_images = images or tars  # img2dataset writes a table of the members of each tar
    if not tables or (has_images and not any(_holds_images(path / table) for table in tables)):
        return None
    kinds = {_table_kind(table): table for table in tables}
    if len(kinds) > 1:
        raise DataError(
            f"{path}: contains Parquet and Arrow files ({', '.join(sorted(kinds.values()))}); give "
            "a folder with one kind"
        )
    return TabularFiles(path, next(iter(kinds)), tuple(sorted(tables)), skipped)


def is_file_form(file: Path | str) -> bool:
    """True if an Arrow file has the file format (Feather V2), not the stream format."""
    return file_head(Path(file)).startswith(ARROW_MAGIC)


def file_features(file: Path | str) -> Any:
    """Return the columns of a Parquet or Arrow file as `datasets` features."""
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
    """Raise DataError if files (file, features) of one split number their classes differently.

    `datasets` uses the names of the first file for all files.
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


def _read_card(file: Path) -> dict[str, Any]:
    """Read the YAML header of a data set's README.md; {} if there is none."""
    if not file.is_file():
        return {}
    from resnets.utils.files.yaml import parse_yaml

    text = read_file(file).decode("utf-8", "replace")
    head = re.match(r"---[ \t]*\r?\n(.*?)\n---[ \t]*\r?(\n|$)", text, re.DOTALL)
    try:
        found = parse_yaml(head[1]) if head else {}
    except ValueError as error:
        raise DataError(f"{file}: its head is invalid or unsupported YAML ({error})") from None
    return found if isinstance(found, dict) else {}


def _read_card_rows(card: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of images per split in README.md's header; {} for several data sets."""
    stated = card.get("dataset_info")
    if isinstance(stated, list) and len(stated) == 1:
        stated = stated[0]
    splits = stated.get("splits") if isinstance(stated, dict) else None
    return {
        str(each["name"]): int(count)
        for each in (splits if isinstance(splits, list) else ())
        if isinstance(each, dict)
        and "name" in each
        and isinstance(count := each.get("num_examples"), str)
        and count.isdecimal()
    }


def _iter_patterns(listed: Any) -> Iterator[tuple[str, str]]:
    """Yield split and pattern of each entry of data_files, in any of its forms."""
    if isinstance(listed, dict):
        listed = [{"split": split, "path": path} for split, path in listed.items()]
    for entry in [listed] if isinstance(listed, str) else listed or ():
        split, paths = (
            (str(entry.get("split", "train")), entry.get("path"))
            if isinstance(entry, dict)
            else ("train", entry)
        )
        for path in [paths] if isinstance(paths, str) else paths or ():
            yield split, str(path)


def escape_pattern(path: str) -> str:
    """Escape a path for `datasets`, which reads brackets and stars as patterns."""
    return glob.escape(path)


def _table_kind(name: str) -> TableFormat:
    return "parquet" if suffix_of(name) == ".parquet" else "arrow"


def _holds_images(file: Path) -> bool:
    """True if a table has a column of images, or cannot be read (reported when it is opened)."""
    try:
        features = file_features(file)
    except Exception:  # not installed, damaged: reported when the set is opened
        return True
    try:
        find_image_column(features, str(file))
    except DataError:
        return False
    return True
