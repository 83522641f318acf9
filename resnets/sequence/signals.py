"""Read labeled signals from a CSV or NumPy file, or generate the set cylinder-bell-funnel."""

from __future__ import annotations

import csv
import hashlib
import itertools
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.config import DataSpec, SignalSpec
from resnets.data import order
from resnets.data.dataset.summary import DataSummary, SplitSummary, find_rarest
from resnets.data.errors import DataError
from resnets.sequence.dataset import Ints, SequenceData
from resnets.utils.errors import reading
from resnets.utils.files.numpy import read_member_header
from resnets.utils.machine.environment import copy_to_device
from resnets.utils.printable import format_count

CBF = "cylinder-bell-funnel"
CBF_SIGNALS, CBF_LENGTH = 930, 128  # as in the UCR archive (Dau et al. 2019)
ROLES = ("train", "val", "test")
SUPPORTED = f"Data of task 'signals': {CBF}, a .csv file, or an .npz file with arrays x and y"

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Signals:
    """Signals of one length. values: (N, C, L) float32. labels: (N,) int64 indices of classes."""

    values: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def get_batch(self, rows: Ints, shifts: Ints) -> tuple[Tensor, Tensor]:
        """Return signals (B, C, L) and labels (B,); `shifts` are not used."""
        indices = copy_to_device(rows, self.values.device)
        return self.values[indices], self.labels[indices]


def open_signals(data: DataSpec, spec: SignalSpec) -> SequenceData:
    """Open the signals `data.source` and split them; raises DataError if they cannot be used.

    Validation and test signals are drawn at random by `data.split_seed` and the position in the
    file. Of a recording they are the end of each segment of one label; no window is in two splits.
    """
    if data.source == CBF:
        values, names = cylinder_bell_funnel(CBF_SIGNALS)
    elif data.source.endswith(".npz"):
        array, labels = read_npz(data.source, ("x", "y"))
        values = as_signals(array, data.source)
        if labels.shape != (len(values),):
            raise DataError(f"{data.source}: y has shape {labels.shape}, not ({len(values)},)")
        names = [str(label) for label in labels.tolist()]
    elif data.source.endswith(".csv"):
        values, names = read_csv(data.source, spec)
    else:
        raise DataError(f"{data.source}: no such data set or format. {SUPPORTED}")
    if spec.window and not data.source.endswith(".csv"):
        raise DataError(f"{data.source}: signal.window is for a .csv file of a recording")
    classes = tuple(sorted(set(names), key=_natural_sort_key))
    if len(classes) < 2:
        raise DataError(f"{data.source}: {len(classes)} class; a classifier needs two or more")
    codes = np.array([classes.index(name) for name in names])
    digest = hashlib.sha256(values.tobytes() + "\0".join(names).encode()).hexdigest()
    notes: tuple[str, ...] = ()
    if spec.window:
        arrays, unused = _cut_segments(values[0].T, codes, spec, data)
        notes = (f"{unused:,} steps at the ends of segments are in no window",) if unused else ()
    else:
        rows = _draw_splits(len(values), data)
        arrays = {role: (values[each], codes[each]) for role, each in rows.items()}
    splits = {
        role: Signals(torch.from_numpy(np.ascontiguousarray(each)), torch.from_numpy(labels))
        for role, (each, labels) in arrays.items()
        if len(each)
    }
    counts = np.bincount(arrays["train"][1], minlength=len(classes))
    rarest = find_rarest(classes, counts.tolist())
    if not rarest.count:
        raise DataError(
            f"{data.source}: class {rarest.name} has no training signals; use a longer file"
        )
    shape = splits["train"].values.shape
    summary = DataSummary(
        data.source if data.source == CBF else Path(data.source).name,
        classes,
        [SplitSummary(role, len(signals), "") for role, signals in splits.items()],
        rarest=rarest,
        notes=(f"{format_count(shape[1], 'channel')} of {format_count(shape[2], 'step')}", *notes),
        counted="signal",
        unit="signals",
    )
    majority = int(counts.argmax())
    baselines = {
        role: {"majority_error": 100 * float((each.labels != majority).float().mean())}
        for role, each in splits.items()
    }
    return SequenceData(summary.name, classes, dict(splits), digest, summary, baselines)


def cylinder_bell_funnel(count: int, seed: int = 0) -> tuple[Floats, list[str]]:
    """Generate `count` signals (N, 1, 128) and their classes.

    Saito 1994 (thesis, section 4.2): noise N(0, 1), and from a to b a plateau of height 6 + eta,
    level (cylinder), rising (bell) or falling (funnel); a is uniform in 16 to 32, b - a in 32 to
    96, eta N(0, 1).
    """
    random = np.random.default_rng(seed)
    names = ("cylinder", "bell", "funnel")
    values = random.standard_normal((count, 1, CBF_LENGTH))
    for row in range(count):
        start, length = random.integers(16, 33), random.integers(32, 97)
        height, time = 6 + random.standard_normal(), np.arange(CBF_LENGTH)
        inside = (time >= start) & (time <= start + length)
        ramp = (time - start) / length
        shape = (np.ones(CBF_LENGTH), ramp, 1 - ramp)[row % 3]
        values[row, 0] += height * shape * inside
    return values.astype(np.float32), [names[row % 3] for row in range(count)]


def read_csv(
    source: str, spec: SignalSpec, *, columns: int | None = None
) -> tuple[Floats, list[str]]:
    """Read a CSV file: signals (N, 1, L) or, with `spec.window`, a recording (1, steps, channels).

    Also returns the label of each row. A first row that does not begin with a number is the header.
    columns: number of columns of a file without labels, whose labels are then "".
    """
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{source}: does not exist. {SUPPORTED}")
    with reading(path, DataError, "as CSV"), open(path, encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise DataError(f"{source}: is empty")
    header = rows[0] if _parse_number(rows[0][0]) is None else None
    body = rows if header is None else rows[1:]
    if not body:
        raise DataError(f"{source}: has a header but no rows")
    width = len(body[0])
    label: int | None = width - 1
    if width == columns:
        label = None
    elif spec.label != "last":
        if header is None or spec.label not in header:
            named = "no header" if header is None else f"columns {', '.join(header[:8])}"
            raise DataError(f"{source}: no column signal.label={spec.label!r} ({named})")
        label = header.index(spec.label)
    values, names = [], []
    for number, row in enumerate(body, 1 if header is None else 2):
        if len(row) != width:
            raise DataError(f"{source}: row {number} has {len(row)} columns, not {width}")
        cells = [cell for column, cell in enumerate(row) if column != label]
        numbers = [_parse_number(cell) for cell in cells]
        if None in numbers:
            bad = cells[numbers.index(None)]
            raise DataError(f"{source}: row {number}: {bad!r:.40} is not a finite number")
        values.append(numbers)
        names.append("" if label is None else row[label].strip())
    array = as_signals(np.array(values), source)
    return (array[None, :, 0] if spec.window else array), names


def read_npz(source: str, names: Sequence[str]) -> list[NDArray[np.generic]]:
    """Read the arrays `names` of an .npz file; DataError if one is missing or damaged.

    Shapes are compared with the sizes of the members before memory is allocated.
    """
    with reading(source, DataError, "as NumPy arrays"), zipfile.ZipFile(source) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if not {f"{name}.npy" for name in names} <= members.keys():
            stored = ", ".join(name.removesuffix(".npy") for name in members)
            raise DataError(f"{source}: expected arrays {' and '.join(names)}, got {stored}")
        for name in names:
            read_member_header(archive, members[f"{name}.npy"])
        with np.load(source, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]


def as_signals(values: NDArray[np.generic], source: str) -> Floats:
    """Convert an array (N, L) or (N, C, L) to (N, C, L) float32.

    DataError if it is empty or not finite in float32.
    """
    if values.ndim not in (2, 3) or values.dtype.kind not in "fiu" or not values.size:
        raise DataError(
            f"{source}: expected numbers of shape (N, L) or (N, C, L), got"
            f" {values.dtype} {values.shape}"
        )
    with np.errstate(over="ignore"):
        array = np.asarray(values, np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{source}: has values that are not finite (in float32)")
    return array if array.ndim == 3 else array[:, None]


def cut_windows(recording: Floats, spec: SignalSpec) -> Floats:
    """Cut a recording (C, steps) into windows (N, C, window)."""
    step = spec.stride or spec.window
    if recording.shape[1] < spec.window:
        return np.empty((0, len(recording), spec.window), np.float32)
    views = np.lib.stride_tricks.sliding_window_view(recording, spec.window, axis=1)
    return np.moveaxis(views[:, ::step], 0, 1)


def _cut_segments(
    recording: Floats, codes: Ints, spec: SignalSpec, data: DataSpec
) -> tuple[dict[str, tuple[Floats, Ints]], int]:
    """Cut a recording into windows and labels by split; also return the number of unused steps."""
    borders = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    segments: dict[str, list[tuple[Floats, Ints]]] = {role: [] for role in ROLES}
    unused = 0
    for start, stop in itertools.pairwise(borders):
        held = [round(share * (stop - start)) for share in (data.val_fraction, data.test_fraction)]
        ends = (start, stop - sum(held), stop - held[1], stop)
        for role, low, high in zip(ROLES, ends[:-1], ends[1:], strict=True):
            cut = cut_windows(recording[:, low:high], spec)
            segments[role].append((cut, np.full(len(cut), codes[start])))
            step = spec.stride or spec.window
            unused += high - low - ((len(cut) - 1) * step + spec.window if len(cut) else 0)
    return {
        role: (
            np.concatenate([each for each, _ in cuts]),
            np.concatenate([labels for _, labels in cuts]),
        )
        for role, cuts in segments.items()
    }, unused


def _draw_splits(count: int, data: DataSpec) -> dict[str, Ints]:
    """Return the rows of each split, drawn at random by `data.split_seed`."""
    shuffled = np.argsort(
        order.random_bits(data.split_seed, 0, np.arange(count), order.STREAM_SPLIT)
    )
    test, val = round(data.test_fraction * count), round(data.val_fraction * count)
    parts = (shuffled[test + val :], shuffled[test : test + val], shuffled[:test])
    return dict(zip(ROLES, map(np.sort, parts), strict=True))


def _parse_number(text: str) -> float | None:
    """Return `text` as a finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _natural_sort_key(name: str) -> tuple[bool, float, str]:
    value = _parse_number(name)
    return value is None, value or 0.0, name
