"""Scores of "unknown" compared: how well each tells images of no class from those of the classes.

    python benchmarks/unknown.py RUN UNKNOWN [RUN UNKNOWN ...] --out scores.json

RUN is a run folder, or published weights with --data; UNKNOWN a folder or archive of images that
are of none of its classes. Scores that need a fit use 5,000 of the training images, never the
unknown ones. Prints for each score the
AUROC and the share of unknown images that are accepted at 95% recall of the run's test images, as
mean and standard deviation over the pairs.
"""

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

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
FITTED, TESTED = 5_000, 4_000  # training and test images
BATCH = 250
RECALL = 0.95


class Fitted:
    """Statistics of the training images' features (N, D), their labels (N,) and the linear head."""

    def __init__(self, features: Array, labels: NDArray[np.int64], head: torch.nn.Linear) -> None:
        self.weight = head.weight.detach().double().numpy()
        bias = head.bias
        self.bias = np.zeros(len(self.weight)) if bias is None else bias.detach().double().numpy()
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


@functools.cache
def measure(run: str, data: str | None) -> tuple[ImageClassifier, Fitted, Array]:
    """Return a run's model, what is fitted to training images, and the features of test images."""
    model = resnets.load(run).eval()
    train, train_truth = open_labeled(model, data, "train")
    test, truth = open_labeled(model, data, "test")
    rng = np.random.default_rng(0)
    rows = rng.permutation(train_truth.rows)[:FITTED].tolist()
    held = rng.permutation(truth.rows)[:TESTED].tolist()
    fit = Fitted(embeddings(model, train, rows), train.labels.numpy()[rows], model.head)
    known = embeddings(model, test, held)
    error = 100 * (fit.logits(known).argmax(1) != test.labels.numpy()[held]).mean()
    print(f"{run}: {error:.2f}% error of {len(known):,} test images")
    return model, fit, known


def compare(run: str, unknown: str, data: str | None) -> dict[str, tuple[float, float]]:
    """Return AUROC and false accepts (0..1) of each score, by name."""
    model, fit, known = measure(run, data)
    others = open_unlabeled(unknown)
    assert others is not None, unknown
    foreign = embeddings(model, others, range(len(others)))
    results = {}
    for name, score in SCORES.items():
        high, low = score(fit, known), score(fit, foreign)
        truths = np.r_[np.ones(len(high)), np.zeros(len(low))]
        threshold = np.quantile(high, 1 - RECALL, method="lower")
        accepted = float((low >= threshold).mean())
        results[name] = (float(roc_auc_score(truths, np.r_[high, low])), accepted)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="+", metavar="RUN UNKNOWN")
    parser.add_argument("--data", help="data set of weights that are not a run")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    args = parser.parse_args()
    if len(args.pairs) % 2:
        parser.error("a run without a folder of unknown images")
    pairs = list(zip(args.pairs[::2], args.pairs[1::2], strict=True))
    results = [compare(*pair, args.data) for pair in pairs]
    for name in SCORES:
        values = np.array([each[name] for each in results])
        mean, std = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(2)
        print(
            f"{name:24} AUROC {mean[0]:.3f} ± {std[0]:.3f}"
            f"  accepted {100 * mean[1]:.1f}% ± {100 * std[1]:.1f}"
        )
    if args.out is not None:
        args.out.write_text(json.dumps({"pairs": pairs, "results": results}, indent=1))


if __name__ == "__main__":
    main()
