"""`resnets.check_data`: find problems of a data set before training or evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

from resnets.config import ConfigError, DataSpec, DetectSpec
from resnets.config.detect import AnnotationFormat, ClassMapScheme
from resnets.config.ranges import check_range
from resnets.data.check.images_by_split import open_contents, split_into_shares
from resnets.data.check.report import ANNOTATIONS, WrittenReport, write_check
from resnets.data.check.run import CheckReport
from resnets.data.check.run import check_data as check_images
from resnets.data.check.verdict import DONE, VerdictItem, exit_code, list_warnings, make_verdict
from resnets.data.dataset.summary import announce
from resnets.data.errors import DataError
from resnets.data.finding_kinds import KINDS, Finding, kinds_by_name
from resnets.data.sources.open import find_source
from resnets.data.splits.check_results import fingerprint_source, save_record
from resnets.detect.check.images_by_split import annotated_contents, annotated_listing
from resnets.detect.check.repair import RepairReport, check_repairable, repair_annotations
from resnets.detect.check.run import (
    AnnotationCheck,
    annotation_tasks,
    check_all_annotations,
    explain_no_annotations,
    write_problems,
)
from resnets.detect.formats.records import Problem
from resnets.evaluate.prepare import with_progress
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.utils.files.local_paths import output_path
from resnets.utils.files.locks import results_folder
from resnets.utils.printable import echo, format_count

RECIPES = {"segment": "segment"}  # others are for `detect`


@dataclass(frozen=True, eq=False, repr=False)
class DataReport:
    """Problems found in a data set by `resnets.check_data`; notebooks display it as HTML.

        report.counts  # {"leak": 3, "duplicate": 12}
        report.files["duplicate"]  # paths within the data set

    Attributes:
        folder: Folder of the report.
        check: Findings about the images.
        written: Files that were written to `folder`.
        annotations: Problems of boxes, outlines or class maps; None for other data sets.
        repaired: Numbers of repaired and dropped annotations; None without `repair`.
    """

    folder: Path
    check: CheckReport
    written: WrittenReport
    annotations: AnnotationCheck | None = None
    repaired: RepairReport | None = None

    @property
    def ok(self) -> bool:
        """True if no finding invalidates a result (exit code 0 of `resnets data check`)."""
        return exit_code(self.check) == DONE

    @property
    def images(self) -> dict[str, int]:
        """Number of images per split; the key is "" for a data set without splits."""
        return self.check.images

    @property
    def counts(self) -> dict[str, int]:
        """Number of files per kind of finding, most serious kind first."""
        counts = self.check.counts
        kinds = dict.fromkeys((*KINDS, *counts))  # annotated data sets have further kinds
        return {kind.name: counts[kind] for kind in kinds if kind in counts}

    @property
    def files(self) -> dict[str, list[str]]:
        """Paths relative to the data set, per kind of finding, in the order of `counts`."""
        files: dict[str, list[str]] = {name: [] for name in self.counts}
        for each in self.findings:
            files[each.kind.name].append(each.path)
        return files

    @property
    def findings(self) -> Sequence[Finding]:
        """All findings, with `kind`, `path`, `detail` and `other_image` (the other copy)."""
        return self.check.findings

    @property
    def problems(self) -> list[Problem]:
        """Invalid annotations, with `where` (the file), `item`, `kind` and `message`."""
        return [] if self.annotations is None else self.annotations.problems

    @property
    def verdict(self) -> list[VerdictItem]:
        """Findings with advice, most serious first: `weight`, `text` and `advice`."""
        return make_verdict(self.check)

    @property
    def warnings(self) -> list[str]:
        """Warnings about likely problems; `verdict` includes them."""
        return list_warnings(self.check)

    @property
    def report(self) -> Path:
        """The report, one self-contained HTML file."""
        return self.written.page

    @property
    def table(self) -> Path:
        """Path of files.csv, which has one row per finding."""
        return self.written.table

    @property
    def quarantine(self) -> Path:
        """Path of quarantine.txt, the images to exclude (`data.quarantine` of a recipe)."""
        return self.written.quarantine

    def __repr__(self) -> str:
        images = format_count(sum(self.images.values()), "image")
        found = [f"{count:,} {name}" for name, count in self.counts.items()]
        if self.annotations is not None:
            found.append(format_count(len(self.problems), "bad annotation"))
        return f"DataReport({str(self.folder)!r}, {images}: {', '.join(found) or 'no findings'})"

    def _repr_html_(self) -> str:
        items = "".join(
            f"<li><b>{each.weight}</b> {escape(each.text)} {escape(each.advice)}</li>"
            for each in self.verdict
        )
        return f"<ul>{items}</ul><p>report: <code>{escape(str(self.report))}</code></p>"


@api_function
def check_data(
    data: str | PathLike[str],
    *,
    out: str | PathLike[str] | None = None,
    exclude: str | Sequence[str] = ("leak", "near-leak"),
    quarantine: str | PathLike[str] | None = None,
    tiny: int = 16,
    ground_truth: str | PathLike[str] | None = None,
    labels_from: Literal["auto", "folder", "name"] = "auto",
    workers: int = 0,
    repair: str | PathLike[str] | None = None,
    class_map: ClassMapScheme = "",
    class_map_folder: str = "",
    format: AnnotationFormat = "",
    quiet: bool = True,
) -> DataReport:
    """Read every image of a data set completely and return its problems as a `DataReport`.

        report = resnets.check_data("photos")
        report.ok, report.counts  # (False, {"leak": 3, "unreadable": 1, "duplicate": 12})
        report.files["leak"]  # paths within the data set
        run = resnets.train("scratch", data="photos", **{"data.quarantine": report.quarantine})

    Finds leaks between splits, unreadable images, imbalanced classes, duplicates, unusual formats,
    and files that training ignores. For a data set with boxes, outlines or class maps it also finds
    invalid annotations.

    Args:
        data: Path of the data set: a folder of class folders, a tar file of one, ..., or any folder
            of images.
        out: Folder for report.html, files.csv and quarantine.txt; default NAME-check in the current
            folder.
        exclude: Kinds of findings to list in quarantine.txt in addition to unreadable images:
            "leak", "near-leak", "duplicate", ..., or "none". Of two copies, the one in the training
            split is listed rather than the one in the validation split, and that rather than the
            one in the test split.
        quarantine: List of images that are already excluded; default: quarantine.txt in the folder
            of the data set, if it exists.
        tiny: Length of the shorter side in px below which an image is reported as tiny.
        ground_truth: File with the labels of a flat validation folder (as ImageNet's ground truth).
        labels_from: Source of the labels (`data.labels_from`): "auto", "folder" or "name".
        workers: Number of threads; 0 = one per core.
        repair: New folder for the corrected annotations of a data set with boxes, in COCO JSON.
        class_map: Meaning of the values of class maps (`detect.class_map`).
        class_map_folder: Folder of the class maps (`detect.class_map_folder`).
        format: Annotation format (`detect.format`).
        quiet: Print nothing.

    Raises ConfigError, and DataError for a data set that cannot be opened or that contains pixel
    arrays instead of image files. Problems that are found are returned, not raised.
    """
    source = fspath(data)
    check_range("--tiny", tiny, "[0, inf)")
    names = exclude.split(",") if isinstance(exclude, str) else exclude
    kinds = kinds_by_name(sorted({name for name in names if name and name != "none"}))
    folder = output_path(out or f"{Path(source).resolve().name.split('.')[0]}-check")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder}: is a file; give a folder")
    spec = DataSpec(
        source=source,
        ground_truth=None if ground_truth is None else fspath(ground_truth),
        labels_from=labels_from,
        workers=workers,
        quarantine=None if quarantine is None else fspath(quarantine),
    )
    detect = DetectSpec(class_map=class_map, class_map_folder=class_map_folder, format=format)
    tasks = annotation_tasks(source, detect)
    if tasks:
        refuse_options(
            "labels are in the annotations; omit it",
            ground_truth=ground_truth,
            labels_from=labels_from != "auto",
        )
    for name, value in (("repair", repair), ("format", format)):
        if value and not tasks:
            raise ConfigError(f"--{name}: {source}: {explain_no_annotations(source)}")
    fixed = None if repair is None else output_path(repair, "--repair")
    if fixed is not None:
        check_repairable(tasks[0], fixed)
    contents = (
        annotated_contents(spec, tasks[0], detect)
        if tasks
        else split_into_shares(open_contents(spec), spec)
    )
    if not quiet:
        announce(replace(contents.summary, warnings=()))  # the report repeats them
    progress = partial(with_progress, hidden=quiet)
    warnings = list(contents.warnings)
    # Not earlier: a new folder inside the data set would be listed as one of its folders.
    with results_folder(folder), results_folder(fixed), _printed_if_it_fails(warnings, quiet):
        found = check_all_annotations(source, tasks, detect, workers=workers, progress=progress)
        warnings += found.warnings
        check = check_images(
            spec,
            tiny=tiny,
            contents=contents,
            progress=lambda counts, total, title: progress(counts, total, description=title),
        )
        if tasks:
            check = check.with_annotations(
                [*map(str, found.problems)], found.refusals, found.warnings
            )
        recipe = RECIPES.get(tasks[0], "detect") if tasks else "scratch"
        written = write_check(check, folder, spec, kinds, recipe)
        _save_findings(check, spec, written, annotated=bool(tasks), quiet=quiet)
        if not tasks:
            return DataReport(folder, check, written)
        write_problems(found.problems, folder / ANNOTATIONS)
        repaired = None if fixed is None else repair_annotations(source, tasks[0], fixed, detect)
        return DataReport(folder, check, written, found, repaired)


@contextmanager
def _printed_if_it_fails(warnings: Sequence[str], quiet: bool) -> Iterator[None]:
    """Context that prints `warnings` if an error ends it; without an error the report has them."""
    try:
        yield
    except Exception:
        for warning in () if quiet else warnings:
            echo(f"WARNING: {warning}")
        raise


def _save_findings(
    check: CheckReport, spec: DataSpec, written: WrittenReport, *, annotated: bool, quiet: bool
) -> None:
    """Save the findings in the cache, where training on the same data set reads them."""
    try:
        if annotated:
            listing = annotated_listing(spec.source)
        else:
            listing = fingerprint_source(find_source(spec), spec.source)
    except DataError:  # not a data set for training
        return
    saved = save_record(spec.source, check.findings, listing, written.quarantine)
    if saved is None and not quiet:
        echo("note: the cache cannot be written, so training will not repeat these findings")
