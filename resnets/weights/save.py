"""A network written into a folder, whole or not at all."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from resnets.config import ConfigError, Preprocess, hold_name
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import ImageClassifier
from resnets.weights.folder import write_folder
from resnets.weights.heads import read_classes


def save_net(
    net: ImageClassifier,
    out: Path,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | Preprocessor | None = None,
) -> None:
    """See `ImageClassifier.save`."""
    named = copy.copy(net)  # the same tensors; what is said of them may be another
    if classes is not None:
        named.classes = read_classes(classes, net.spec.num_classes, "the network")
    elif net.classes and len(net.classes) != net.spec.num_classes:
        raise ConfigError(
            f"classes: the network has {net.spec.num_classes} outputs and {len(net.classes)} names"
        )
    if preprocess is not None:
        given = preprocess if isinstance(preprocess, Preprocessor) else Preprocessor(preprocess)
        named.preprocess = given
    into_new_folder(out.expanduser(), lambda made: write_folder(named, made, None), str(out))


def into_new_folder(out: Path, write: Callable[[Path], None], said: str) -> None:
    """Let `write` fill a folder beside `out`, and rename it once that is done.

    ConfigError where `out` holds something or another process writes it; `said` is what the user
    calls it.
    """
    with hold_name(out):
        if out.is_symlink() and not out.exists():
            raise ConfigError(f"{said}: is a link to nothing; name a new folder")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{said}: holds something already; name a new folder")
        with tempfile.TemporaryDirectory(prefix=".save-", dir=out.resolve().parent) as temporary:
            made = Path(temporary) / "net"
            made.mkdir()
            write(made)
            if out.exists():
                out.rmdir()
            made.rename(out)
