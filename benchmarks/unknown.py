"""Scores of "unknown" compared: how well they detect images of none of the classes.

    python benchmarks/unknown.py RUN UNKNOWN [RUN UNKNOWN ...] --features FOLDER

RUN is a run folder, or published weights with --data; UNKNOWN a folder or archive of images that
are of none of its classes. Scores that need a fit use 4,000 of the training images, never the
unknown ones. FOLDER keeps the features, so that images are read once. Prints for each score the
AUROC and the share of unknown images that are accepted at 95% recall of the test images, of each
pair and their mean.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import resnets
from resnets.data.dataset.labeled_images import Split
from resnets.data.splits.all_images import open_unlabeled
from resnets.evaluate.data.match_classes import open_labeled
from resnets.evaluate.features import embed
from resnets.evaluate.views import Views, read_views
from resnets.models import ImageClassifier

Array = NDArray[np.float64]
NEIGHBORS = 50
TRAIN, TEST, OTHERS = 4_000, 2_500, 1_000  # largest numbers of images
BATCH = 250
RECALL = 0.95


Arrays = dict[str, NDArray[Any]]


class Fitted:
    """Statistics of the training images' features (N, D), their labels (N,) and the linear head."""

    def __init__(self, arrays: Arrays) -> None:
        features, labels = arrays["train"], arrays["train_labels"]
        self.weight, self.bias = arrays["weight"], arrays["bias"]
        self.clip = np.quantile(features, 0.9)
        self.neighbors = NearestNeighbors(n_neighbors=NEIGHBORS).fit(_unit(features))
        self.means = np.stack([features[labels == k].mean(0) for k in range(len(self.weight))])
        self.precision = LedoitWolf().fit(features - self.means[labels]).precision_
        self.mean = features.mean(0)
        self.background = LedoitWolf().fit(features - self.mean).precision_
        # ViM (Wang et al. 2022): the part of the features outside of their main directions.
        self.origin = -np.linalg.pinv(self.weight) @ self.bias
        centered = features - self.origin
        _, vectors = np.linalg.eigh(centered.T @ centered)
        self.residual = vectors[:, : features.shape[1] // 2]
        norms = np.linalg.norm(centered @ self.residual, axis=1)
        self.vim_scale = self.logits(features).max(1).mean() / norms.mean()

    def logits(self, features: Array) -> Array:
        """Return logits (B, K) of features (B, D)."""
        return features @ self.weight.T + self.bias

    def distances(self, features: Array) -> Array:
        """Return squared Mahalanobis distances (B, K) from the classes' means."""
        return np.stack([_squared(features - mean, self.precision) for mean in self.means], 1)


def _unit(features: Array) -> Array:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _squared(differences: Array, precision: Array) -> Array:
    return np.einsum("bi,ij,bj->b", differences, precision, differences)


def _generalized_entropy(logits: Array, gamma: float = 0.1) -> Array:
    p = softmax(logits, 1)
    return -((p * (1 - p)) ** gamma).sum(1)


def _vim(fit: Fitted, x: Array) -> Array:
    norms = np.linalg.norm((x - fit.origin) @ fit.residual, axis=1)
    return logsumexp(fit.logits(x), 1) - fit.vim_scale * norms


def _centered(logits: Array) -> Array:
    return logits - logits.mean(1, keepdims=True)


# Each is high for images of the classes.
SCORES: dict[str, Callable[[Fitted, Array], Array]] = {
    "energy": lambda fit, x: logsumexp(fit.logits(x), 1),
    "energy, centered logits": lambda fit, x: logsumexp(_centered(fit.logits(x)), 1),
    "max logit": lambda fit, x: fit.logits(x).max(1),
    "max logit, centered": lambda fit, x: _centered(fit.logits(x)).max(1),
    "max probability": lambda fit, x: log_softmax(fit.logits(x), 1).max(1),
    "margin": lambda fit, x: np.diff(np.sort(fit.logits(x), 1)[:, -2:], axis=1)[:, 0],
    "entropy": lambda fit, x: (softmax(fit.logits(x), 1) * log_softmax(fit.logits(x), 1)).sum(1),
    "GEN": lambda fit, x: _generalized_entropy(fit.logits(x)),
    "ReAct": lambda fit, x: logsumexp(fit.logits(np.minimum(x, fit.clip)), 1),
    "KNN": lambda fit, x: -fit.neighbors.kneighbors(_unit(x))[0][:, -1],
    "Mahalanobis": lambda fit, x: -fit.distances(x).min(1),
    "relative Mahalanobis": lambda fit, x: (
        _squared(x - fit.mean, fit.background) - fit.distances(x).min(1)
    ),
    "ViM": _vim,
    "cosine to class mean": lambda fit, x: (
        _unit(x - fit.mean) @ _unit(fit.means - fit.mean).T
    ).max(1),
    "feature norm": lambda fit, x: np.linalg.norm(x, axis=1),
}


def embeddings(model: ImageClassifier, split: Split, rows: Sequence[int]) -> Array:
    """Return the inputs (N, D) of the head for the images `rows` of `split`."""
    features = []
    for start in range(0, len(rows), BATCH):
        pixels = [
            read_views(split, row, Views(), model.preprocess.spec)[0]
            for row in rows[start : start + BATCH]
        ]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            features.append(embed(model, model.preprocess.normalize(images)).double().numpy())
    return np.concatenate(features)


def collect(run: str, unknown: str, data: str | None) -> Arrays:
    """Return features of training, test and unknown images, labels, head and postprocessing."""
    model, rng = resnets.load(run).eval(), np.random.default_rng(0)
    arrays: Arrays = {}
    for name, most in (("train", TRAIN), ("test", TEST)):
        split, truth = open_labeled(model, data, name)
        rows = rng.permutation(truth.rows)[:most].tolist()
        arrays[name] = embeddings(model, split, rows)
        arrays[f"{name}_labels"] = split.labels.numpy()[rows]
    others = open_unlabeled(unknown)
    assert others is not None, unknown
    rows = rng.permutation(len(others))[:OTHERS].tolist()
    arrays["unknown"] = embeddings(model, others, rows)
    arrays["weight"] = model.head.weight.detach().double().numpy()
    arrays["bias"] = model.head.bias.detach().double().numpy()
    arrays["temperature"] = np.array(model.postprocess.temperature)
    return arrays


def read_or_collect(run: str, unknown: str, data: str | None, folder: Path) -> Arrays:
    """Return the arrays of a pair, from `folder` if they are there."""
    name = re.sub(r"\W+", "-", f"{run}-{unknown}").strip("-")
    path = folder / f"{name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, **collect(run, unknown, data))
    return dict(np.load(path))


def compare(arrays: Arrays) -> dict[str, tuple[float, float]]:
    """Return AUROC and false accepts (0..1) of each score, by name."""
    fit, results = Fitted(arrays), {}
    for name, score in SCORES.items():
        high, low = score(fit, arrays["test"]), score(fit, arrays["unknown"])
        truths = np.r_[np.ones(len(high)), np.zeros(len(low))]
        threshold = np.quantile(high, 1 - RECALL, method="lower")
        accepted = float((low >= threshold).mean())
        results[name] = (float(roc_auc_score(truths, np.r_[high, low])), accepted)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="+", metavar="RUN UNKNOWN")
    parser.add_argument("--data", help="data set of weights that are not a run")
    parser.add_argument("--features", type=Path, default=Path("runs/features"))
    args = parser.parse_args()
    if len(args.pairs) % 2:
        parser.error("a run without a folder of unknown images")
    pairs = list(zip(args.pairs[::2], args.pairs[1::2], strict=True))
    results = [compare(read_or_collect(*pair, args.data, args.features)) for pair in pairs]
    for name in SCORES:
        values = np.array([each[name] for each in results])
        each = "  ".join(f"{auroc:.3f} {100 * accepted:5.1f}%" for auroc, accepted in values)
        print(f"{name:24} {each}  mean {values[:, 0].mean():.3f}")


if __name__ == "__main__":
    main()
