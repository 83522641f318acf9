"""Find the columns of a table that contain the images, labels and splits.

Columns are found by their names in the header, ignoring case, spaces and underscores, else by their
cells. If a column is ambiguous, the error lists what was found and what is expected.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resnets.data.errors import DataError
from resnets.data.layout.folder_names import split_role
from resnets.utils.printable import join_names, printable

# The first name that a table has is used; names are compared after `normalize_name`.
PATH_NAMES = (
    "path", "filepath", "filename", "file", "imagepath", "imagefile", "imagename", "image",
    "imgpath", "imgfile", "imgname", "img", "picture", "photo", "imageid", "imgid", "fileid",
    "relpath", "relativepath", "fname", "src", "uri", "name", "id",
)  # fmt: skip
LABEL_NAMES = (
    "label", "class", "classname", "labelname", "category", "categoryname", "target",
    "finelabel", "cls", "groundtruth", "predictionstring", "y", "tag", "labelid", "classid",
    "categoryid", "classlabel", "classidx", "classindex", "labelidx",
)  # fmt: skip
SPLIT_NAMES = ("split", "subset", "dataset", "set", "part", "partition", "usage", "phase", "fold")
FLAGS = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "t", "y"), True),
    **dict.fromkeys(("false", "0", "0.0", "no", "f", "n", ""), False),
}
# Values of columns of classes, without case: of images that are not of the class, and that are.
ONE_HOT_VALUES = (("0", "1"), ("-1", "1"), ("false", "true"), ("no", "yes"))
GROUP_NAME = re.compile(
    r"fold|cv|group|cluster|patient|subject|person|participant|individual|animal|donor|user|site"
    r"|hospital|camera|scene|video|sequence|session|clip|train|valid|test|split|subset|partition"
)
NOT_LABEL_NAME = re.compile(
    r"(k|cv)?fold(id|no|number)?|cv|split|group(id)?|(patient|subject|video)(id)?"
)
EXPECTED = "expected path,label or path,label,split, or a header with these names"

Rows = Sequence[Sequence[str]]
NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
MAX_NAMES = 8  # of columns in a message
ZERO_DECIMALS = re.compile(r"\.0*$")  # the decimals of "1.0"


@dataclass(frozen=True)
class Columns:
    """Indices of the columns of a table with `count` columns.

    label: None if only paths are read. flags: columns of true and false, each with the split that
    true stands for. one_hot: columns of two values, one column per class, instead of a label.
    values: these, a pair of ONE_HOT_VALUES. group: the column of `data.group`. unused: the names of
    all other columns.
    """

    path: int
    label: int | None
    split: int | None
    count: int
    header: tuple[str, ...] = ()
    flags: tuple[tuple[int, str], ...] = ()
    one_hot: tuple[int, ...] = ()
    values: tuple[str, str] = ("0", "1")
    group: int | None = None
    unused: tuple[str, ...] = ()

    @property
    def has_splits(self) -> bool:
        """Whether the table assigns images to splits."""
        return self.split is not None or bool(self.flags)

    @property
    def suspicious_columns(self) -> tuple[str, ...]:
        """Unused columns whose names suggest splits or groups of related images."""
        return tuple(name for name in self.unused if is_split_or_group_name(name))

    @property
    def has_label_name(self) -> bool:
        """Whether the label column has one of the usual names."""
        return (
            self.label is not None
            and bool(self.header)
            and (normalize_name(self.header[self.label]) in LABELS)
        )

    def describe(self) -> str:
        """Describe which column is used for what."""

        def format_column(index: int) -> str:
            return repr(self.header[index]) if self.header else f"column {index + 1}"

        parts = [f"path: {format_column(self.path)}"]
        if self.one_hot:
            parts.append(f"labels: {len(self.one_hot)} columns of {' and '.join(self.values)}")
        elif self.label is not None:
            parts.append(f"label: {format_column(self.label)}")
        indices = [] if self.split is None else [self.split]
        if indices := [*indices, *(index for index, _ in self.flags)]:
            parts.append(f"split: {' and '.join(map(format_column, indices))}")
        if self.group is not None:
            parts.append(f"group: {format_column(self.group)}")
        if self.unused:
            parts.append(f"not used: {format_names(self.unused)}")
        return ", ".join(parts)


def format_names(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """Format the first `most` column names for a message, quoted."""
    return join_names([repr(printable(name)) for name in names], most)


def is_split_or_group_name(name: str) -> bool:
    """Return whether the name of a column suggests splits or groups of related images."""
    letters = re.sub(r"[\W_]+", "", name.lower())
    return normalize_name(name) in SPLITS or GROUP_NAME.search(letters) is not None


def parse_flag_name(name: str) -> str | None:
    """Return the split that a column of true and false denotes, such as is_valid or isTest.

    >>> [parse_flag_name(name) for name in ("is_training_image", "IsVal", "in test set", "issue")]
    ['train', 'val', 'test', None]
    """
    letters = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).lower())
    found = re.fullmatch(
        r"(?:is|in)(?:the)?(.+?)(?:set|image|img|split|data|sample|row)*s?", letters
    )
    role = split_role(found[1]) if found else None
    return None if role == "trainval" else role


def normalize_name(name: str) -> str:
    """Return a column name without case, spaces, punctuation and plural s."""
    letters = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).lower())
    return letters if letters in ("class", "cls") else letters.removesuffix("s")


PATHS, LABELS = tuple(map(normalize_name, PATH_NAMES)), tuple(map(normalize_name, LABEL_NAMES))
SPLITS = tuple(map(normalize_name, SPLIT_NAMES))


def find_column(name: str, names: Sequence[str]) -> int | None:
    """Return the index of the column `name`, exact or normalized; None if absent or ambiguous."""
    if name in names:
        return list(names).index(name)
    matches = [
        index for index, other in enumerate(names) if normalize_name(other) == normalize_name(name)
    ]
    return matches[0] if len(matches) == 1 else None


def find_columns(
    sample: Rows,
    exists: Callable[[str], bool],
    where: str,
    *,
    labeled: bool = True,
    group: str | None = None,
    has_header: bool = False,
) -> Columns:
    """Find the columns of a table from its first rows `sample`, with or without a header.

    exists: returns whether a cell names an image. labeled: whether a label is needed. group: the
    name of the column of groups, which is not used for anything else. has_header: the first row is
    known to be a header. Raises DataError if a column cannot be determined.
    """
    first_row, count = sample[0], len(sample[0])
    names = [normalize_name(cell) for cell in first_row]
    known = {*PATHS, *LABELS, *SPLITS, ""}
    is_image = [_image_fraction(sample, column, exists) for column in range(count)]
    has_header = has_header or (
        not any(map(exists, first_row))
        and (
            any(name in known for name in names if name)
            or any(map(parse_flag_name, first_row))
            or max(is_image) > 0
        )
    )
    header = tuple(cell.strip() for cell in first_row) if has_header else ()
    body = sample[1:] if has_header else sample
    path = _find_path_column(names if has_header else [], is_image, where, header)
    if not labeled:
        return Columns(path, None, None, count, header)
    split = _find_split_column(names if has_header else [], body, path)
    flags = tuple(
        (column, role)
        for column, name in enumerate(header)
        if column not in (path, split) and (role := parse_flag_name(name)) is not None
    )
    group_column = None if group is None else find_column(group, header)
    used = {path, split, group_column, *(column for column, _ in flags)}
    rest = [column for column in range(count) if column not in used]

    def make_columns(label: int | None, one_hot: Sequence[int] = ()) -> Columns:
        remaining = [column for column in rest if column != label and column not in one_hot]
        unused = tuple(
            header[column] or f"column {column + 1}"
            for column in (remaining if has_header else ())
            if not _is_row_number(body, column, header) or is_split_or_group_name(header[column])
        )
        values = _find_one_hot_values(body, one_hot) or ONE_HOT_VALUES[0]
        columns = Columns(
            path, label, split, count, header, flags, tuple(one_hot), values, group_column, unused
        )
        if has_header:
            images = [index for index in range(count) if is_image[index] > is_image[path] / 2]
            _check_repeated_names(columns, names, body, images or [path], where)
        return columns

    if has_header:
        for name in LABELS:
            if found := [column for column in rest if names[column] == name]:
                return make_columns(found[0])
    candidates = [column for column in rest if not _is_row_number(body, column, header)] or rest
    if len(candidates) > 1 and has_header and _find_one_hot_values(body, candidates):
        return make_columns(None, candidates)
    if len(candidates) == 1 and not (has_header and NOT_LABEL_NAME.fullmatch(names[candidates[0]])):
        return make_columns(candidates[0])
    if has_header:
        others = join_names(header, MAX_NAMES)
        raise DataError(
            f"{where}: line 1: the header has no label column; its columns are {others}, rename "
            f"one to label{_one_hot_problem(body, candidates, path, header)}"
        )
    raise DataError(f"{where}: line 1: {count} cells, {EXPECTED}")


def _check_repeated_names(
    columns: Columns, names: Sequence[str], body: Rows, images: Sequence[int], where: str
) -> None:
    """Raise DataError if a column with other cells has the name of one that is used.

    images: the columns that may be the path.
    """

    def check(one: int, other: int, *, same_cells: bool) -> None:
        cells = [(row[one], row[other]) for row in body if len(row) > max(one, other)]
        if one == other or (same_cells and all(a == b for a, b in cells)):
            return
        both = " and ".join(repr(printable(columns.header[at])) for at in sorted((one, other)))
        raise DataError(
            f"{where}: line 1: columns {min(one, other) + 1} and {max(one, other) + 1} are called"
            f" {both}; remove or rename one"
        )

    for used in (columns.path, columns.label, columns.split, columns.group):
        for other, name in enumerate(names):
            alike = used is not None and name and name == names[used]
            if used is not None and alike and (used != columns.path or other in images):
                check(used, other, same_cells=True)
    for used in columns.one_hot:
        check(columns.header.index(columns.header[used]), used, same_cells=False)


def _image_fraction(sample: Rows, column: int, exists: Callable[[str], bool]) -> float:
    """Return the fraction of the rows whose cell in `column` names an image."""
    cells = [row[column] for row in sample if len(row) > column]
    return sum(map(exists, cells)) / max(1, len(cells))


def _find_path_column(
    names: Sequence[str], is_image: Sequence[float], where: str, header: Sequence[str]
) -> int:
    """Return the column of images: the one whose cells name most, else one with a known name."""
    known = [names.index(name) for name in PATHS if name in names]
    best = max(range(len(is_image)), key=lambda column: (is_image[column], -column))
    if is_image[best] > 0:
        # A label can also name an image ("1" and 1.png), so half is enough for a known name.
        return next((column for column in known if is_image[column] > is_image[best] / 2), best)
    if known:
        return known[0]
    if header:
        others = join_names(header, MAX_NAMES)
        raise DataError(
            f"{where}: line 1: the header has no path column; its columns are {others}, rename one "
            "to path"
        )
    return 0  # no cell names an image: the rows will be reported as missing


def _find_split_column(names: Sequence[str], body: Rows, path: int) -> int | None:
    """Return the column of splits, or None."""
    for name in SPLITS:
        if name in names:
            column = names.index(name)
            cells = [row[column] for row in body if len(row) > column and row[column]]
            if cells and not any(map(split_role, cells)) and name != normalize_name("split"):
                continue  # numbers of folds, or names of sources
            return column
    if not names and body:
        count = len(body[0])
        for column in range(count - 1, -1, -1):
            if count < 3 or column == path:
                continue
            if all(split_role(row[column]) for row in body if len(row) == count):
                return column
        if count == 3 and path == 0 and any(split_role(row[2]) for row in body if len(row) == 3):
            return 2
    return None


def _is_row_number(body: Rows, column: int, header: Sequence[str]) -> bool:
    """Return whether a column numbers the rows, as pandas and MXNet write it."""
    cells = [row[column] for row in body if len(row) > column]
    unnamed = bool(header) and (not header[column] or header[column].lower().startswith("unnamed"))
    numbers = all(NUMBER.fullmatch(cell) for cell in cells)
    return unnamed or (len(cells) > 2 and numbers and len(set(cells)) == len(cells))


def _find_one_hot_values(body: Rows, columns: Sequence[int]) -> tuple[str, str] | None:
    """Return the values of ONE_HOT_VALUES in all of these columns; None for other cells."""
    cells = {
        _normalize_value(row[column]) for row in body for column in columns if len(row) > column
    }
    return next((values for values in ONE_HOT_VALUES if cells and cells <= set(values)), None)


def _normalize_value(cell: str) -> str:
    return ZERO_DECIMALS.sub("", cell).lower()


def _one_hot_problem(body: Rows, columns: Sequence[int], path: int, header: Sequence[str]) -> str:
    """Return why columns that seem to be one per class are not read as such; else ""."""
    cells = [
        (_normalize_value(row[column]), row, column)
        for row in body
        for column in columns
        if len(row) > max(column, path)
    ]
    counts = {values: sum(cell in values for cell, *_ in cells) for values in ONE_HOT_VALUES}
    values = max(counts, key=counts.__getitem__)
    if (
        len(columns) < 2
        or not cells
        or (counts[values] < len(cells) / 2 and len({cell for cell, *_ in cells}) != 2)
    ):
        return ""
    _, row, column = next(each for each in cells if each[0] not in values)
    known = " or ".join(map(" and ".join, ONE_HOT_VALUES))
    return (
        f". Columns of classes contain {known}, but the row of {printable(row[path])!r} has"
        f" {printable(row[column])!r} in column {printable(header[column])!r}"
    )


def parse_split(row: Sequence[str], columns: Columns, location: str) -> str:
    """Return the split of a row, "train", "val" or "test".

    Raises DataError if its cells name no split, or two.
    """

    def name(column: int) -> str:
        return repr(printable(columns.header[column])) if columns.header else "the split"

    split: str | None = None
    if columns.split is not None:
        split = split_role(row[columns.split])
        if split is None:
            raise DataError(
                f"{location}: split {row[columns.split]!r}; expected train, val or test"
            )
        split = "train" if split == "trainval" else split
    possible = {"train", "val", "test"} if split is None else {split}
    for column, role in columns.flags:
        flag = FLAGS.get(row[column].lower())
        if flag is None:
            raise DataError(
                f"{location}: {name(column)} is {row[column]!r}; expected true or false"
            )
        possible &= {role} if flag else {"train", "val", "test"} - {role}
    roles = {role for _, role in columns.flags}
    if len(possible) > 1:  # no flag is true: the split without a column
        possible -= {"val"} if roles == {"train"} else possible - {"train"}
    if len(possible) != 1:
        cells = ", ".join(f"{name(column)} is {row[column]!r}" for column, _ in columns.flags)
        raise DataError(f"{location}: {cells} contradict each other about the split; correct them")
    return possible.pop()


def parse_one_hot(row: Sequence[str], columns: Columns, location: str) -> tuple[str, ...]:
    """Return the classes whose column has the second of `columns.values`.

    Raises DataError for a cell with neither value.
    """
    cells = {column: _normalize_value(row[column]) for column in columns.one_hot}
    invalid = next((column for column, cell in cells.items() if cell not in columns.values), None)
    if invalid is not None:
        raise DataError(
            f"{location}: {printable(columns.header[invalid])!r} is {row[invalid]!r}; the columns"
            f" of classes have {' and '.join(columns.values)} before. Write one of them, or remove"
            " the row"
        )
    return tuple(
        columns.header[column] for column, cell in cells.items() if cell == columns.values[1]
    )
