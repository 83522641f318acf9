"""`ImageIndex`: find the image file that each annotation entry refers to.

The longest common path suffix decides, by whole folder names: an image is searched in the folders
whose paths share the longest suffix with the folder of the entry. If none of them has it,
it is missing, even if another folder has a file of that name. Entries without a folder are
searched next to their annotation file, or in the folder named like their image set if there is one.
Several candidates for one entry, or one file for two entries, are reported and never chosen from.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from resnets.data.layout.folder_names import split_role
from resnets.data.splits.check_results import fingerprint_files
from resnets.detect.images.path_matching import (
    ImageReference,
    Match,
    Parts,
    base_name,
    canonical_suffix,
    common_suffix_length,
    find_nearest_folder,
    find_split_folder,
    fold_case,
    folded_parts,
    is_derived_folder,
    is_derived_folder_name,
    is_inside,
    keep_closest,
    keep_same_spelling,
    normalize_path,
    path_variants,
)
from resnets.detect.images.store import Store, has_image_suffix


@dataclass(frozen=True)
class _Candidates:
    """Files that may be the image of an entry.

    rank: number of trailing folder names that they share with the stated path. name_index: index
    in `ImageReference.names` of the name that they were found by.
    """

    paths: tuple[str, ...] = ()
    rank: int = 0
    name_index: int = 0

    def priority(self, entry: ImageReference) -> tuple[bool, int, int]:
        """Sort key: of two entries with the same image, the one with the larger key gets it."""
        if not entry.is_consistent and not entry.prefer_own_name:
            return False, 0, 0  # any of its names may be outdated
        return entry.is_consistent, -self.name_index, self.rank


@dataclass(frozen=True)
class _Folder:
    """A folder with image files: its path and its case-folded parts.

    has_images: it is not a folder of masks, drawings or the like.
    """

    path: str
    parts: Parts
    has_images: bool


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """The image files of a store, by name and folder."""

    store: Store
    paths: Sequence[str]
    _closest_cache: dict[tuple[Parts, str, bool], tuple[int, frozenset[str]]] = field(
        default_factory=dict
    )
    _folders_by_name: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    _folders_below: dict[str | None, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> ImageIndex:
        """Return the index of all images of the store."""
        return cls(store, store.image_paths)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            name = fold_case(posixpath.basename(path))
            found[posixpath.splitext(name)[0]].append(path)
        return found

    @cached_property
    def _folders(self) -> dict[str, _Folder]:
        names = dict.fromkeys(posixpath.dirname(path) for path in self.paths)
        return {
            name: _Folder(name, folded_parts(name), not is_derived_folder(name)) for name in names
        }

    @cached_property
    def _image_folders(self) -> list[str]:
        return [folder.path for folder in self._folders.values() if folder.has_images]

    @property
    def images(self) -> list[str]:
        """Paths of all images except those in folders of masks, drawings and the like."""
        return [path for path in self.paths if self._folders[posixpath.dirname(path)].has_images]

    def match(self, entries: Sequence[ImageReference]) -> list[Match]:
        """Return the match of each entry, all of one image set; no two entries share an image."""
        roots = self._search_roots(entries)
        candidates = [self._find_candidates(entry, roots[entry.group]) for entry in entries]
        matches = [self._choose(*pair) for pair in zip(entries, candidates, strict=True)]
        self._resolve_name_conflicts(entries, roots, candidates, matches)
        rows_by_path: dict[str, list[int]] = defaultdict(list)
        for row, match in enumerate(matches):
            if match.path is not None:
                rows_by_path[match.path].append(row)
        for path, rows in rows_by_path.items():
            if len(rows) > 1:
                priorities = {row: candidates[row].priority(entries[row]) for row in rows}
                winners = [row for row in rows if priorities[row] == max(priorities.values())]
                for row in rows:
                    if len(winners) > 1:
                        other = entries[next(each for each in rows if each != row)]
                        matches[row] = _shared_image(entries[row], other, path)
                    elif row != winners[0]:
                        message = f"its image is missing ({path} is another entry's)"
                        matches[row] = Match(None, "missing image", message)
        self._resolve_renamed(entries, candidates, matches)
        return matches

    def _resolve_name_conflicts(
        self,
        entries: Sequence[ImageReference],
        roots: dict[tuple[str, str], str | None],
        candidates: Sequence[_Candidates],
        matches: list[Match],
    ) -> None:
        """Replace the matches of entries whose names refer to different existing images.

        Other entries that were matched with one of these images lose it too.
        """
        certain = {
            match.path
            for entry, match in zip(entries, matches, strict=True)
            if entry.own_name and entry.is_consistent
        }
        disputed: dict[str, int] = {}
        for row, (entry, match) in enumerate(zip(entries, matches, strict=True)):
            if entry.is_consistent or match.path is None:
                continue
            other_paths = self._find_candidates(
                entry, roots[entry.group], candidates[row].name_index + 1
            ).paths
            rivals = [p for p in other_paths if not (entry.prefer_own_name and p in certain)]
            if rivals and not self._are_copies((match.path, *rivals)):
                disputed |= dict.fromkeys((match.path, *rivals), row)
                names = ", ".join(map(base_name, entry.names))
                message = (
                    f"its image may be {match.path} or {rivals[0]}: the name of the file and"
                    f" what it specifies ({names}) differ; correct one"
                )
                matches[row] = Match(None, "several images", message)
        for row, (entry, match) in enumerate(zip(entries, matches, strict=True)):
            found_by_own_name = entry.prefer_own_name and candidates[row].name_index == 0
            if match.path in disputed and not entry.is_consistent and not found_by_own_name:
                matches[row] = _shared_image(entry, entries[disputed[match.path]], match.path)

    def _search_roots(self, entries: Sequence[ImageReference]) -> dict[tuple[str, str], str | None]:
        """Return, for each (annotation folder, image set), the folder to search for images.

        It is the nearest enclosing folder of the annotations that contains one of their images, or
        the only image folder named like the image set; None = the whole store.
        """
        groups: dict[tuple[str, str], set[str]] = defaultdict(set)
        for entry in entries:
            variants = (variant for name in entry.names for variant in path_variants(name))
            groups[entry.group].update(fold_case(posixpath.basename(name)) for name in variants)
        roots: dict[tuple[str, str], str | None] = {}
        titles = {title for _, title in groups}
        by_title = {title: find_split_folder(title, self._image_folders) for title in titles}
        for (folder, title), names in groups.items():
            holding = [self._folders_with_name(name) for name in names]
            holders = [images for images, _ in holding if images] or [
                others for _, others in holding
            ]
            roots[folder, title] = (
                find_nearest_folder(folder, holders)
                or by_title[title]
                or self._find_mirrored_folder(folder, holders)
            )
        return roots

    def _find_mirrored_folder(self, folder: str, holders: Sequence[Sequence[str]]) -> str | None:
        """Return the folder whose path shares the longest suffix with the annotation folder.

        For example "images/siteB" for "json/siteB". Candidates are the folders that contain an
        image of the annotations. None if there is no common suffix, or a tie.
        """
        parts = folded_parts(folder)
        candidates = {each for folders in holders for each in folders}
        ranks = {
            each: common_suffix_length(parts, self._folders[each].parts) for each in candidates
        }
        best = max(ranks.values(), default=0)
        nearest = [each for each, rank in ranks.items() if rank == best]
        return nearest[0] if best and len(nearest) == 1 else None

    def _folders_with_name(self, name: str) -> tuple[list[str], list[str]]:
        """Return the sorted folders with a file of this name: image folders, derived folders."""
        if name not in self._folders_by_name:
            folders = sorted({posixpath.dirname(path) for path in self._find_by_name(name)})
            images = [each for each in folders if self._folders[each].has_images]
            others = [each for each in folders if not self._folders[each].has_images]
            self._folders_by_name[name] = images, others
        return self._folders_by_name[name]

    def _find_candidates(
        self, entry: ImageReference, root: str | None, start: int = 0
    ) -> _Candidates:
        """Return the candidates for the first of the entry's names, from `start` on, with any."""
        for name_index, name in enumerate(entry.names[start:], start):
            for variant in path_variants(name):
                parts = folded_parts(posixpath.dirname(variant))
                rank, folders = self._closest_folders(parts, root)
                if matching := keep_same_spelling(self._find_by_name(variant, folders), variant):
                    return _Candidates(tuple(matching), rank, name_index)
        return _Candidates()

    def _closest_folders(self, parts: Parts, root: str | None) -> tuple[int, frozenset[str]]:
        """Return the longest common suffix with `parts` (its length), and its folders.

        Folders below `root` are searched. If a folder outside has a longer common suffix, it is
        returned if the suffix contains the name of a split; otherwise no folder is.
        """
        key = parts, root or "", root is None
        if key in self._closest_cache:
            return self._closest_cache[key]
        closest = self._rank_folders(parts, root)
        if root is not None:
            elsewhere = self._rank_folders(parts, None)
            shared = parts[len(parts) - elsewhere[0] :]
            if elsewhere[0] > closest[0]:
                names_split = any(map(split_role, shared))
                closest = elsewhere if names_split else (elsewhere[0], frozenset())
        self._closest_cache[key] = closest
        return closest

    def _rank_folders(self, parts: Parts, root: str | None) -> tuple[int, frozenset[str]]:
        best = 0
        folders: set[str] = set()
        for folder in self._by_last_part.get(parts[-1], ()) if parts else ():
            rank = common_suffix_length(parts, folder.parts)
            allowed = any(map(is_derived_folder_name, folder.parts[len(folder.parts) - rank :]))
            if (
                not is_inside(folder.path, root)
                or not (folder.has_images or allowed)
                or rank < best
            ):
                continue
            if rank > best:
                best, folders = rank, set()
            folders.add(folder.path)
        if folders:
            return best, frozenset(folders)
        if root not in self._folders_below:
            self._folders_below[root] = frozenset(
                folder.path
                for folder in self._folders.values()
                if is_inside(folder.path, root) and (folder.has_images or folder.path == root)
            )
        return 0, self._folders_below[root]

    @cached_property
    def _by_last_part(self) -> dict[str, list[_Folder]]:
        """Return the folders by the last part of their paths."""
        found: dict[str, list[_Folder]] = defaultdict(list)
        for folder in self._folders.values():
            if folder.parts:
                found[folder.parts[-1]].append(folder)
        return found

    def _find_by_name(self, name: str, folders: frozenset[str] | None = None) -> list[str]:
        """Return the images called `name` in `folders` (None = anywhere).

        A name without a suffix matches any format.
        """
        found: list[str] = []
        for variant in path_variants(name):
            base = fold_case(posixpath.basename(variant))
            stem, suffix = posixpath.splitext(base)
            if has_image_suffix(base):
                found += [
                    p
                    for p in self._find_by_stem(stem, folders)
                    if canonical_suffix(p) == canonical_suffix(base)
                ]
            else:
                found += self._find_by_stem(base, folders)
                whole = self._find_by_stem(stem, folders) if suffix else ()
                found += [p for p in whole if fold_case(posixpath.basename(p)) == base]
        return list(dict.fromkeys(found))

    def _find_by_stem(self, stem: str, folders: frozenset[str] | None) -> Sequence[str]:
        found = self._by_stem.get(stem, ())
        if folders is None:
            return found
        if len(found) <= len(folders):
            return [path for path in found if posixpath.dirname(path) in folders]
        return sorted(path for each in folders for path in self._by_location.get((each, stem), ()))

    @cached_property
    def _by_location(self) -> dict[tuple[str, str], list[str]]:
        """Return the images by (folder, stem)."""
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for stem, paths in self._by_stem.items():
            for path in paths:
                found[posixpath.dirname(path), stem].append(path)
        return found

    def _choose(self, entry: ImageReference, candidates: _Candidates) -> Match:
        paths = candidates.paths
        if not paths:
            return Match(
                None, "missing image", f"its image is missing{self._describe_other(entry)}"
            )
        if len(paths) > 1:
            name = normalize_path(entry.names[candidates.name_index])
            for literal in (posixpath.join(entry.group[0], name), name):
                paths = tuple(p for p in paths if literal in (p, posixpath.splitext(p)[0])) or paths
            for hint in (*entry.names[1:], *entry.hints):
                paths = keep_closest(paths, hint)
        if len(paths) > 1 and not self._are_copies(paths):
            choices = " or ".join(paths[:3])
            message = f"its image may be {choices}; specify its folder, or remove the others"
            return Match(None, "several images", message)
        return Match(paths[0])

    def _describe_other(self, entry: ImageReference) -> str:
        """Return " (PATH is another, or a mask or drawing)" for a file of the same name, or ""."""
        others = [path for name in entry.names for path in self._find_by_name(name)]
        return f" ({others[0]} is another, or a mask or drawing)" if others else ""

    def _are_copies(self, paths: Sequence[str]) -> bool:
        """Return whether all files have the same bytes."""
        first = self.store.read(paths[0])
        return all(self.store.read(path) == first for path in paths[1:])

    def _resolve_renamed(
        self,
        entries: Sequence[ImageReference],
        candidates: Sequence[_Candidates],
        matches: list[Match],
    ) -> None:
        """Decide whether images of a stated folder that does not exist may be in a renamed one.

        They may not if other entries specify the other folder, or folders that exist. An entry
        that only has the folder of its annotation file (VOC) does not count as stating one.
        """
        matched = [
            (entry, candidate, match)
            for entry, candidate, match in zip(entries, candidates, matches, strict=True)
            if match.path is not None
        ]
        used_folders = {
            posixpath.dirname(str(match.path)) for _, candidate, match in matched if candidate.rank
        }
        explicit = any(candidate.rank and entry.states_folder for entry, candidate, _ in matched)
        for row, match in enumerate(matches):
            stated_folder = posixpath.dirname(normalize_path(entries[row].names[0]))
            if match.path is None or candidates[row].rank or not stated_folder:
                continue
            own_folder = not entries[row].states_folder
            if posixpath.dirname(match.path) in used_folders or (explicit and not own_folder):
                message = (
                    f"its image is missing ({match.path} is of another folder than"
                    f" {stated_folder}/)"
                )
                matches[row] = Match(None, "missing image", message)
            elif not own_folder:
                matches[row] = replace(match, stated_folder=stated_folder)


def _shared_image(entry: ImageReference, other: ImageReference, path: str) -> Match:
    same_file = other.annotation_path == entry.annotation_path
    name = other.names[0] if same_file else other.annotation_path
    message = f"its image {path} is that of another entry too ({name})"
    return Match(None, "one image for two", message)


def fingerprint_images(store: Store) -> str:
    """Return the fingerprint of all images of a store (`data.splits.check_results`)."""
    return fingerprint_files([store.take(ImageIndex.of(store).images)], store.where)
