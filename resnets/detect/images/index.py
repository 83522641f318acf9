"""Which image file each annotation belongs to.

The longest common path suffix decides, by whole folder names: of all folders that hold images,
those that share the longest end with the folder that the annotation states. An image that is not
in one of them is missing, whatever lies elsewhere under its name. Annotations that state no folder
are looked for beside their own file, or in the folder called like their image set, where there is
one. More than one candidate, or one file for two entries, is a problem and never a choice.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from resnets.data.layout.folder_names import split_role
from resnets.data.splits.check_record import listing_fingerprint
from resnets.detect.images.entries import Match, Stated
from resnets.detect.images.names import (
    Parts,
    base_name,
    closest,
    common_end,
    folded,
    folder_of_set,
    holds_no_images,
    image_format,
    is_inside,
    is_no_image_folder,
    nearest_holding,
    path_parts,
    plain_path,
    same_spelling,
    variants,
)
from resnets.detect.images.store import Store, has_image_suffix, is_text_path


@dataclass(frozen=True)
class _Found:
    """Candidates of one entry: how many folder names they share with what it states.

    later: the place of the name that they were found by among those stated.
    """

    paths: tuple[str, ...] = ()
    rank: int = 0
    later: int = 0

    def strength(self, entry: Stated) -> tuple[bool, int, int]:
        """Of two entries with one image, the one with the greater strength has it."""
        if not entry.agrees and not entry.own_first:
            return False, 0, 0  # either of its names may be out of date
        return entry.agrees, -self.later, self.rank


@dataclass(frozen=True)
class _Folder:
    """A folder that holds images: its path and the same as folded parts."""

    path: str
    parts: Parts
    is_image: bool


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """The image files of a store, by name and folder."""

    store: Store
    paths: Sequence[str]
    _ranks: dict[tuple[Parts, str, bool], tuple[int, frozenset[str]]] = field(default_factory=dict)
    _holders: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    _everywhere: dict[str | None, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> ImageIndex:
        """All images of the store."""
        return cls(store, [path for path in store.rows if not is_text_path(path)])

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            name = folded(posixpath.basename(path))
            found[posixpath.splitext(name)[0]].append(path)
        return found

    @cached_property
    def _folders(self) -> dict[str, _Folder]:
        names = dict.fromkeys(posixpath.dirname(path) for path in self.paths)
        return {name: _Folder(name, path_parts(name), not holds_no_images(name)) for name in names}

    @cached_property
    def _image_folders(self) -> list[str]:
        return [folder.path for folder in self._folders.values() if folder.is_image]

    @property
    def images(self) -> list[str]:
        """All images but those in folders of masks, drawings and the like."""
        return [path for path in self.paths if self._folders[posixpath.dirname(path)].is_image]

    def match(self, entries: Sequence[Stated]) -> list[Match]:
        """The image of each entry, all of one image set; an image is given to one entry only."""
        homes = self._homes(entries)
        found = [self._find(entry, homes[_group(entry)]) for entry in entries]
        matches = [self._decide(*pair) for pair in zip(entries, found, strict=True)]
        self._judge_names(entries, homes, found, matches)
        users: dict[str, list[int]] = defaultdict(list)
        for row, match in enumerate(matches):
            if match.path is not None:
                users[match.path].append(row)
        for path, rows in users.items():
            if len(rows) > 1:
                strength = {row: found[row].strength(entries[row]) for row in rows}
                first = [row for row in rows if strength[row] == max(strength.values())]
                for row in rows:
                    if len(first) > 1 or row != first[0]:
                        matches[row] = self._shared(entries, rows, row, path, len(first) > 1)
        self._judge_renamed(entries, found, matches)
        return matches

    def _judge_names(
        self,
        entries: Sequence[Stated],
        homes: dict[tuple[str, str], str | None],
        found: Sequence[_Found],
        matches: list[Match],
    ) -> None:
        """Entries whose names mean different images that are there, and others with those."""
        sure = {
            match.path
            for entry, match in zip(entries, matches, strict=True)
            if entry.own and entry.agrees
        }
        disputed: dict[str, int] = {}
        for row, (entry, match) in enumerate(zip(entries, matches, strict=True)):
            if entry.agrees or match.path is None:
                continue
            others = self._find(entry, homes[_group(entry)], found[row].later + 1).paths
            open_ones = [p for p in others if not (entry.own_first and p in sure)]
            if open_ones and not self._alike((match.path, *open_ones)):
                disputed |= dict.fromkeys((match.path, *open_ones), row)
                names = ", ".join(map(base_name, entry.names))
                message = (
                    f"its image may be {match.path} or {open_ones[0]}: the name of the file and"
                    f" what it states ({names}) differ; correct one"
                )
                matches[row] = Match(None, "several images", message)
        for row, (entry, match) in enumerate(zip(entries, matches, strict=True)):
            by_own = entry.own_first and found[row].later == 0
            if match.path in disputed and not entry.agrees and not by_own:
                rows = disputed[match.path], row
                matches[row] = self._shared(entries, rows, row, match.path, True)

    def _homes(self, entries: Sequence[Stated]) -> dict[tuple[str, str], str | None]:
        """For each (folder of the annotations, title) the folder their images lie in, if any.

        The nearest folder around the annotations that holds an image of one of them, or the one
        folder of images that is called like the image set; None = anywhere.
        """
        groups: dict[tuple[str, str], set[str]] = defaultdict(set)
        for entry in entries:
            stated = (variant for name in entry.names for variant in variants(name))
            groups[_group(entry)].update(folded(posixpath.basename(name)) for name in stated)
        homes: dict[tuple[str, str], str | None] = {}
        titles = {title for _, title in groups}
        titled = {title: folder_of_set(title, self._image_folders) for title in titles}
        for (folder, title), names in groups.items():
            found = [self._holding(name) for name in names]
            usable = [images for images, _ in found if images] or [others for _, others in found]
            homes[folder, title] = (
                nearest_holding(folder, usable) or titled[title] or self._mirrored(folder, usable)
            )
        return homes

    def _mirrored(self, folder: str, holding: Sequence[Sequence[str]]) -> str | None:
        """The one folder of images that shares the longest end with that of the annotations.

        "images/siteB" of "json/siteB". Among those that hold an image of the annotations; where
        none of these shares anything, nothing is known.
        """
        own = path_parts(folder)
        candidates = {each for folders in holding for each in folders}
        ranks = {each: common_end(own, self._folders[each].parts) for each in candidates}
        best = max(ranks.values(), default=0)
        nearest = [each for each, rank in ranks.items() if rank == best]
        return nearest[0] if best and len(nearest) == 1 else None

    def _holding(self, name: str) -> tuple[list[str], list[str]]:
        """Sorted folders of images, and of masks and the like, that hold a file of this name."""
        if name not in self._holders:
            folders = sorted({posixpath.dirname(path) for path in self._named(name)})
            images = [each for each in folders if self._folders[each].is_image]
            others = [each for each in folders if not self._folders[each].is_image]
            self._holders[name] = images, others
        return self._holders[name]

    def _find(self, entry: Stated, home: str | None, start: int = 0) -> _Found:
        """The candidates for an entry, by the first of its names from `start` on that has any."""
        for later, name in enumerate(entry.names[start:], start):
            for variant in variants(name):
                stated = path_parts(posixpath.dirname(variant))
                rank, folders = self._nearest(stated, home)
                if kept := same_spelling(self._named(variant, folders), variant):
                    return _Found(tuple(kept), rank, later)
        return _Found()

    def _nearest(self, stated: Parts, home: str | None) -> tuple[int, frozenset[str]]:
        """How many folder names at most an image folder shares with `stated`, and which do.

        In `home`. A folder outside it that is stated by more counts where a split's name is among
        them; otherwise none does.
        """
        key = stated, home or "", home is None
        if key in self._ranks:
            return self._ranks[key]
        inside = self._best(stated, home)
        if home is not None:
            outside = self._best(stated, None)
            shared = stated[len(stated) - outside[0] :]
            if outside[0] > inside[0]:
                named = any(map(split_role, shared))
                inside = outside if named else (outside[0], frozenset())
        self._ranks[key] = inside
        return inside

    def _best(self, stated: Parts, home: str | None) -> tuple[int, frozenset[str]]:
        best = 0
        folders: set[str] = set()
        for folder in self._by_last.get(stated[-1], ()) if stated else ():
            rank = common_end(stated, folder.parts)
            named = any(map(is_no_image_folder, folder.parts[len(folder.parts) - rank :]))
            if not is_inside(folder.path, home) or not (folder.is_image or named) or rank < best:
                continue
            if rank > best:
                best, folders = rank, set()
            folders.add(folder.path)
        if folders:
            return best, frozenset(folders)
        if home not in self._everywhere:
            self._everywhere[home] = frozenset(
                folder.path
                for folder in self._folders.values()
                if is_inside(folder.path, home) and (folder.is_image or folder.path == home)
            )
        return 0, self._everywhere[home]

    @cached_property
    def _by_last(self) -> dict[str, list[_Folder]]:
        """Folders by the last part of their paths."""
        found: dict[str, list[_Folder]] = defaultdict(list)
        for folder in self._folders.values():
            if folder.parts:
                found[folder.parts[-1]].append(folder)
        return found

    def _named(self, name: str, folders: frozenset[str] | None = None) -> list[str]:
        """Images called `name`, in whatever folder or in one of `folders`; of any format where it
        has no suffix."""
        found: list[str] = []
        for variant in variants(name):
            base = folded(posixpath.basename(variant))
            stem, suffix = posixpath.splitext(base)
            if has_image_suffix(base):
                found += [
                    p for p in self._of_stem(stem, folders) if image_format(p) == image_format(base)
                ]
            else:
                found += self._of_stem(base, folders)
                whole = self._of_stem(stem, folders) if suffix else ()
                found += [p for p in whole if folded(posixpath.basename(p)) == base]
        return list(dict.fromkeys(found))

    def _of_stem(self, stem: str, folders: frozenset[str] | None) -> Sequence[str]:
        found = self._by_stem.get(stem, ())
        if folders is None:
            return found
        if len(found) <= len(folders):
            return [path for path in found if posixpath.dirname(path) in folders]
        return sorted(path for each in folders for path in self._by_place.get((each, stem), ()))

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], list[str]]:
        """The images of a folder by stem."""
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for stem, paths in self._by_stem.items():
            for path in paths:
                found[posixpath.dirname(path), stem].append(path)
        return found

    def _decide(self, entry: Stated, found: _Found) -> Match:
        paths = found.paths
        if not paths:
            return Match(None, "missing image", f"its image is missing{self._elsewhere(entry)}")
        if len(paths) > 1:
            folder, name = posixpath.dirname(entry.beside), plain_path(entry.names[found.later])
            for literal in (posixpath.join(folder, name), name):
                paths = tuple(p for p in paths if literal in (p, posixpath.splitext(p)[0])) or paths
            for hint in (*entry.names[1:], *entry.hints):
                paths = closest(paths, hint)
        if len(paths) > 1 and not self._alike(paths):
            listed = " or ".join(paths[:3])
            message = f"its image may be {listed}; state the folder with it, or remove the others"
            return Match(None, "several images", message)
        return Match(paths[0])

    def _elsewhere(self, entry: Stated) -> str:
        """What lies under the same name where it does not count."""
        others = [path for name in entry.names for path in self._named(name)]
        return f" ({others[0]} is another, or a mask or drawing)" if others else ""

    def _alike(self, paths: Sequence[str]) -> bool:
        """Whether the files are copies of one image."""
        first = self.store.read(paths[0])
        return all(self.store.read(path) == first for path in paths[1:])

    def _shared(
        self, entries: Sequence[Stated], rows: Sequence[int], row: int, path: str, tied: bool
    ) -> Match:
        if not tied:
            return Match(None, "missing image", f"its image is missing ({path} is another entry's)")
        other = entries[next(each for each in rows if each != row)]
        called = other.names[0] if other.beside == entries[row].beside else other.beside
        message = f"its image {path} is that of another entry too ({called})"
        return Match(None, "one image for two", message)

    def _judge_renamed(
        self, entries: Sequence[Stated], found: Sequence[_Found], matches: list[Match]
    ) -> None:
        """Whether images of a stated folder that is not there may lie in one of another name.

        Not in a folder that other entries state; nor at all where other entries state folders that
        are there. The folder of an annotation file itself, as VOC's, is not stated like that.
        """
        kept = [
            (entry, each, match)
            for entry, each, match in zip(entries, found, matches, strict=True)
            if match.path is not None
        ]
        taken = {posixpath.dirname(str(match.path)) for _, each, match in kept if each.rank}
        explicit = any(each.rank and _states_folder(entry) for entry, each, _ in kept)
        for row, match in enumerate(matches):
            stated = posixpath.dirname(plain_path(entries[row].names[0]))
            if match.path is None or found[row].rank or not stated:
                continue
            own = not _states_folder(entries[row])
            if posixpath.dirname(match.path) in taken or (explicit and not own):
                message = f"its image is missing ({match.path} is of another folder than {stated}/)"
                matches[row] = Match(None, "missing image", message)
            elif not own:
                matches[row] = replace(match, renamed=stated)


def _states_folder(entry: Stated) -> bool:
    """Whether an entry states a folder that is not merely that of its annotation file."""
    folder = posixpath.dirname(entry.names[0])
    return folder not in ("", posixpath.dirname(entry.beside))


def _group(entry: Stated) -> tuple[str, str]:
    return posixpath.dirname(entry.beside), entry.title


def store_listing(store: Store) -> str:
    """Fingerprint of all images of a store, whatever annotations name
    (`data.splits.check_record`)."""
    return listing_fingerprint([store.take(ImageIndex.of(store).images)], store.where)
