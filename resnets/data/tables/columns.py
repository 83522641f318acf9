"""Which column of a table holds the image, which its label, and which its split.

By the header where it has a known name, whatever its case, spaces or underscores; else by what the
cells hold. What stays open is refused with what was found and what is expected.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resnets.data.errors import DataError
from resnets.data.layout.folder_names import split_role
from resnets.utils.printable import printable

# The first that a table has is taken; names are compared as `plain` writes them.
PATH_NAMES = (
    *("path", "filepath", "filename", "file", "imagepath", "imagefile", "imagename", "image"),
    *("imgpath", "imgfile", "imgname", "img", "picture", "photo", "imageid", "imgid", "fileid"),
    *("relpath", "relativepath", "fname", "src", "uri", "name", "id"),
)
LABEL_NAMES = (
    *("label", "class", "classname", "labelname", "category", "categoryname", "target"),
    *("finelabel", "cls", "groundtruth", "predictionstring", "y", "tag", "labelid", "classid"),
    *("categoryid", "classlabel", "classidx", "classindex", "labelidx"),
)
SPLIT_NAMES = ("split", "subset", "dataset", "set", "part", "partition", "usage", "phase", "fold")
FLAGS = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "t", "y"), True),
    **dict.fromkeys(("false", "0", "0.0", "no", "f", "n", ""), False),
}
GROUPS = re.compile(
    r"fold|cv|group|cluster|patient|subject|person|participant|individual|animal|donor|user|site"
    r"|hospital|camera|scene|video|sequence|session|clip|train|valid|test|split|subset|partition"
)
NO_LABEL = re.compile(
    r"(k|cv)?fold(id|no|number)?|cv|split|group(id)?|(patient|subject|video)(id)?"
)
EXPECTED = "expected path,label or path,label,split, or a header with these names"

Rows = Sequence[Sequence[str]]
NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
WHOLE = re.compile(r"\.0*$")  # what is left out of "1.0"


@dataclass(frozen=True)
class Columns:
    """Where in a row the cells are, of `count`.

    label: None where only paths are wanted. flags: columns of true and false with the split that
    true stands for. one_hot: columns of 0 and 1, one for each class, in place of a label; of -1
    and 1 where they are `signed`. group: the column of `data.group`. unused: the names of the
    others.
    """

    path: int
    label: int | None
    split: int | None
    count: int
    header: tuple[str, ...] = ()
    flags: tuple[tuple[int, str], ...] = ()
    one_hot: tuple[int, ...] = ()
    signed: bool = False
    group: int | None = None
    unused: tuple[str, ...] = ()

    @property
    def splits(self) -> bool:
        """Whether the table says which image is in which split."""
        return self.split is not None or bool(self.flags)

    @property
    def suspicious(self) -> tuple[str, ...]:
        """Those of the unused that are called like splits, or like groups of images that belong
        together."""
        return tuple(name for name in self.unused if is_suspicious(name))

    @property
    def names_label(self) -> bool:
        """Whether a header calls the label by one of its usual names."""
        return (
            self.label is not None
            and bool(self.header)
            and (plain(self.header[self.label]) in LABELS)
        )

    @property
    def off(self) -> str:
        """What stands in a column of 0 and 1 for an image that is not of its class."""
        return "-1" if self.signed else "0"

    def said(self) -> str:
        """What was taken for what, where the header has other names."""

        def name(place: int) -> str:
            return repr(self.header[place]) if self.header else f"column {place + 1}"

        words = [f"path: {name(self.path)}"]
        if self.one_hot:
            words.append(f"labels: {len(self.one_hot)} columns of {self.off} and 1")
        elif self.label is not None:
            words.append(f"label: {name(self.label)}")
        places = [] if self.split is None else [self.split]
        if places := [*places, *(place for place, _ in self.flags)]:
            words.append(f"split: {' and '.join(map(name, places))}")
        if self.group is not None:
            words.append(f"group: {name(self.group)}")
        if self.unused:
            words.append(f"not used: {shown_names(self.unused)}")
        return ", ".join(words)


def shown_names(names: Sequence[str], most: int = 8) -> str:
    """Names of columns for a message, quoted, the first `most` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(printable(name)) for name in names[:most]) + more


def is_suspicious(name: str) -> bool:
    """Whether a column is called like splits, or like groups of images that belong together."""
    letters = re.sub(r"[\W_]+", "", name.lower())
    return plain(name) in SPLITS or GROUPS.search(letters) is not None


def flag_role(name: str) -> str | None:
    """The split that a column of true and false stands for: is_valid, is_training_image, isTest.

    >>> [flag_role(name) for name in ("is_training_image", "IsVal", "in test set", "issue")]
    ['train', 'val', 'test', None]
    """
    letters = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).lower())
    found = re.fullmatch(
        r"(?:is|in)(?:the)?(.+?)(?:set|image|img|split|data|sample|row)*s?", letters
    )
    role = split_role(found[1]) if found else None
    return None if role == "trainval" else role


def plain(name: str) -> str:
    """A column's name without case, spaces, punctuation and the plural's s."""
    letters = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).lower())
    return letters if letters in ("class", "cls") else letters.removesuffix("s")


PATHS, LABELS = tuple(map(plain, PATH_NAMES)), tuple(map(plain, LABEL_NAMES))
SPLITS = tuple(map(plain, SPLIT_NAMES))


def find_name(name: str, names: Sequence[str]) -> int | None:
    """The place of a column called `name`: exactly, else in another case or spacing; or None."""
    if name in names:
        return list(names).index(name)
    alike = [place for place, each in enumerate(names) if plain(each) == plain(name)]
    return alike[0] if len(alike) == 1 else None


def find_columns(
    sample: Rows,
    exists: Callable[[str], bool],
    where: str,
    *,
    labeled: bool = True,
    group: str | None = None,
    headed: bool = False,
) -> Columns:
    """The columns of a table that begins with the rows `sample`, a header among them or not.

    `exists` says whether a cell names an image; `labeled`: whether a label is needed; `group`: the
    name of the column of groups, which is none of the others; `headed`: whether a header is sure.
    DataError where a column cannot be told.
    """
    first, count = sample[0], len(sample[0])
    names = [plain(cell) for cell in first]
    known = {*PATHS, *LABELS, *SPLITS, ""}
    is_image = [_share(sample, place, exists) for place in range(count)]
    headed = headed or (
        not any(map(exists, first))
        and (
            any(name in known for name in names if name)
            or any(map(flag_role, first))
            or max(is_image) > 0
        )
    )
    header = tuple(cell.strip() for cell in first) if headed else ()
    body = sample[1:] if headed else sample
    path = _path(names if headed else [], is_image, where, header)
    if not labeled:
        return Columns(path, None, None, count, header)
    split = _split(names if headed else [], body, path, where)
    flags = tuple(
        (place, role)
        for place, name in enumerate(header)
        if place not in (path, split) and (role := flag_role(name)) is not None
    )
    grouped = None if group is None else find_name(group, header)
    taken = {path, split, grouped, *(place for place, _ in flags)}
    rest = [place for place in range(count) if place not in taken]

    def columns(label: int | None, one_hot: Sequence[int] = ()) -> Columns:
        free = [place for place in rest if place != label and place not in one_hot]
        unused = tuple(
            header[place] or f"column {place + 1}"
            for place in (free if headed else ())
            if not _is_index(body, place, header) or is_suspicious(header[place])
        )
        signed = bool(one_hot) and _is_one_hot(body, one_hot, "-1")
        return Columns(
            *(path, label, split, count, header, flags, tuple(one_hot), signed, grouped, unused)
        )

    if headed:
        for name in LABELS:
            if found := [place for place in rest if names[place] == name]:
                return columns(found[0])
    kept = [place for place in rest if not _is_index(body, place, header)] or rest
    if len(kept) > 1 and headed and any(_is_one_hot(body, kept, off) for off in ("0", "-1")):
        return columns(None, kept)
    if len(kept) == 1 and not (headed and NO_LABEL.fullmatch(names[kept[0]])):
        return columns(kept[0])
    if headed:
        others = ", ".join(map(printable, header))
        raise DataError(
            f"{where}: line 1: a header without a label; its columns are {others}, and one has to"
            " be called label"
        )
    raise DataError(f"{where}: line 1: {count} cells, {EXPECTED}")


def _share(sample: Rows, place: int, exists: Callable[[str], bool]) -> float:
    """The share of the rows whose cell at `place` names an image."""
    cells = [row[place] for row in sample if len(row) > place]
    return sum(map(exists, cells)) / max(1, len(cells))


def _path(
    names: Sequence[str], is_image: Sequence[float], where: str, header: Sequence[str]
) -> int:
    """Where the images are: the column whose cells name most, then the one with a known name."""
    known = [names.index(name) for name in PATHS if name in names]
    best = max(range(len(is_image)), key=lambda place: (is_image[place], -place))
    if is_image[best] > 0:
        # A label may be the name of an image too ("1" and 1.png), so half is enough for a name.
        return next((place for place in known if is_image[place] > is_image[best] / 2), best)
    if known:
        return known[0]
    if header:
        others = ", ".join(map(printable, header))
        raise DataError(
            f"{where}: line 1: a header without a path; its columns are {others}, and one has to be"
            " called path"
        )
    return 0  # no cell names an image: the rows will be named as missing


def _split(names: Sequence[str], body: Rows, path: int, where: str) -> int | None:
    """The column of splits."""
    for name in SPLITS:
        if name in names:
            place = names.index(name)
            cells = [row[place] for row in body if len(row) > place and row[place]]
            if cells and not any(map(split_role, cells)) and name != plain("split"):
                continue  # numbers of folds, or names of sources
            return place
    if not names and body:
        count = len(body[0])
        for place in range(count - 1, -1, -1):
            if count < 3 or place == path:
                continue
            if all(split_role(row[place]) for row in body if len(row) == count):
                return place
        if count == 3 and path == 0 and any(split_role(row[2]) for row in body if len(row) == 3):
            return 2
    return None


def _is_index(body: Rows, place: int, header: Sequence[str]) -> bool:
    """Whether a column numbers the rows, as pandas and MXNet write it."""
    cells = [row[place] for row in body if len(row) > place]
    unnamed = bool(header) and (not header[place] or header[place].lower().startswith("unnamed"))
    numbers = all(NUMBER.fullmatch(cell) for cell in cells)
    return unnamed or (len(cells) > 2 and numbers and len(set(cells)) == len(cells))


def _is_one_hot(body: Rows, places: Sequence[int], off: str) -> bool:
    """Whether all of these columns hold `off` and 1 only."""
    cells = (row[place] for row in body for place in places if len(row) > place)
    return bool(body) and all(WHOLE.sub("", cell) in (off, "1") for cell in cells)


def split_of(row: Sequence[str], columns: Columns, place: str) -> str:
    """The split that a row is in, "train", "val" or "test"; DataError where its cells say none, or
    two."""

    def name(column: int) -> str:
        return repr(printable(columns.header[column])) if columns.header else "the split"

    said: str | None = None
    if columns.split is not None:
        said = split_role(row[columns.split])
        if said is None:
            raise DataError(f"{place}: split {row[columns.split]!r}; expected train, val or test")
        said = "train" if said == "trainval" else said
    possible = {"train", "val", "test"} if said is None else {said}
    for column, role in columns.flags:
        flag = FLAGS.get(row[column].lower())
        if flag is None:
            raise DataError(f"{place}: {name(column)} is {row[column]!r}; expected true or false")
        possible &= {role} if flag else {"train", "val", "test"} - {role}
    roles = {role for _, role in columns.flags}
    if len(possible) > 1:  # no flag is true: the split that no column stands for
        possible -= {"val"} if roles == {"train"} else possible - {"train"}
    if len(possible) != 1:
        cells = ", ".join(f"{name(column)} is {row[column]!r}" for column, _ in columns.flags)
        raise DataError(f"{place}: {cells}, which contradict each other on its split; correct them")
    return possible.pop()


def one_hot_names(row: Sequence[str], columns: Columns, place: str) -> tuple[str, ...]:
    """The classes whose column is 1; DataError where a cell is neither that nor `columns.off`."""
    cells = {each: WHOLE.sub("", row[each]) for each in columns.one_hot}
    odd = next((each for each, cell in cells.items() if cell not in (columns.off, "1")), None)
    if odd is not None:
        raise DataError(
            f"{place}: {printable(columns.header[odd])!r} is {row[odd]!r}; the columns of classes"
            f" hold {columns.off} and 1 before. Write one of them, or remove the row"
        )
    return tuple(columns.header[each] for each, cell in cells.items() if cell == "1")
