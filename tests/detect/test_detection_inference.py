"""The paper's additions (appendix B): each changes what it should, and nothing else."""

import dataclasses

import pytest
import torch
from detect_models import C4, FPN, NET, random_images, small_model
from torch import nn

from resnets.config import ConfigError, Preprocess
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.models.inference import (
    DetectionInference,
    _vote_boxes,
    nearest_scales,
)
from resnets.detect.models.layers import pad
from resnets.detect.models.predictor import Predictor
from resnets.detect.models.roi_heads import flatten_candidates

LOW = dataclasses.replace(FPN, score_threshold=0.0, train_sizes=(64,), max_size=200)


def shifting(share: float):
    """A detector that finds class 1 everywhere and moves each box right by `share` of its width."""
    model = small_model(dataclasses.replace(LOW, max_detections=400, nms_threshold=1.0))
    predictor = model.roi_heads.box_predictor
    for layer in (predictor.cls_score, predictor.bbox_pred):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        predictor.cls_score.bias[1] = 20
        predictor.bbox_pred.bias[4] = share * 10  # the coder divides by 10
    return model


def distance(boxes, others):
    """Pixels from each box to the nearest of the others."""
    return (boxes[:, None] - others).abs().amax(-1).amin(1)


def proposals_of(model, images):
    padded = pad(images)
    with torch.no_grad():
        return model.propose(padded, model.features(padded.tensors))


@pytest.mark.parametrize("spec", [FPN, C4])
def test_without_extensions_inference_equals_the_detector(spec):
    model = small_model(dataclasses.replace(spec, score_threshold=0.1))
    with torch.no_grad():
        expected = model(random_images())
    for found, each in zip(DetectionInference([model])(random_images()), expected, strict=True):
        assert len(each["boxes"]) > 0
        for name, values in each.items():
            torch.testing.assert_close(found[name], values)


def test_refined_regions_are_read_again_at_their_regressed_boxes():
    model = shifting(0.1)
    images = random_images()[:1]
    (once,), (twice,) = (
        DetectionInference([model], refine=refine)(images) for refine in (False, True)
    )
    (proposals,) = proposals_of(model, images)
    width = proposals[:, 2] - proposals[:, 0]
    free = proposals[:, 2] + 0.3 * width < images[0].shape[-1]  # never at the edge
    moved = proposals[free] + 0.1 * width[free, None] * torch.tensor([1.0, 0, 1, 0])
    first = once["boxes"][once["labels"] == 1]
    assert distance(moved, first).max() < 1e-3
    again = moved + 0.1 * width[free, None] * torch.tensor([1.0, 0, 1, 0])
    (read,) = DetectionInference([model])._score_regions(
        DetectionInference([model])._views(images), [moved], [(90, 130)]
    )
    torch.testing.assert_close(read[0][:, 1], again, atol=1e-3, rtol=0)
    assert len(twice["boxes"]) < len(once["boxes"])  # the union is suppressed at 0.3


def test_votes_move_a_box_to_the_weighted_mean_of_those_that_overlap_it():
    pool = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [0, 0, 10, 10], [50, 50, 60, 60]]),
        "scores": torch.tensor([0.9, 0.3, 0.8, 0.7]),
        "labels": torch.tensor([1, 1, 2, 1]),
    }
    kept = {name: values[:1] for name, values in pool.items()}
    voted = _vote_boxes(kept, pool)
    assert voted["boxes"][0].tolist() == pytest.approx(
        [0.5, 0, 10.5, 10]
    )  # (0.9 * 0 + 0.3 * 2) / 1.2
    assert voted["scores"].tolist() == kept["scores"].tolist()


def test_voted_boxes_are_exact_within_autocast():
    """A matrix product would be in bfloat16: with these boxes errors of 2 px."""
    random = torch.Generator().manual_seed(0)
    corner = 900 + torch.rand(50, 2, generator=random)
    pool = {
        "boxes": torch.cat([corner, corner + 60], 1),
        "scores": torch.rand(50, generator=random),
        "labels": torch.ones(50, dtype=torch.int64),
    }
    kept = {name: values[:3] for name, values in pool.items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = _vote_boxes(kept, pool)["boxes"]
    weights = pool["scores"].double()[:, None]
    expected = (weights * pool["boxes"].double()).sum(0) / weights.sum()
    torch.testing.assert_close(found, expected.float().expand(3, 4), atol=1e-3, rtol=0)


def test_context_reads_the_whole_image_in_addition_to_each_region():
    model = small_model(dataclasses.replace(C4, context=True))
    plain = small_model(C4)
    halved = ("cls_score.weight", "bbox_pred.weight")
    tensors = model.state_dict()
    for name in tensors:
        if name.startswith("roi_heads") and name.endswith(halved):
            tensors[name] = tensors[name][:, : tensors[name].shape[1] // 2]
    plain.load_state_dict(tensors)
    heads, boxes = (
        model.roi_heads,
        [torch.tensor([[5.0, 5, 60, 60]]), torch.tensor([[0.0, 0, 20, 41]])],
    )
    padded = pad(random_images())
    with torch.no_grad():
        features = model.features(padded.tensors)
        vectors = heads.vectors(features, boxes, padded.image_sizes)
        alone = plain.roi_heads.vectors(features, boxes, padded.image_sizes)
    width = alone.shape[1]
    torch.testing.assert_close(vectors[:, :width], alone)
    torch.testing.assert_close(vectors[1, :width], vectors[1, width:])  # that region is the image
    assert not torch.allclose(vectors[0, :width], vectors[0, width:])
    predictor = heads.box_predictor
    with torch.no_grad():
        expected = plain.roi_heads.predict(alone)
        with_scene = heads.predict(vectors)
        nn.init.zeros_(predictor.cls_score.weight[:, width:])
        nn.init.zeros_(predictor.bbox_pred.weight[:, width:])
        without = heads.predict(vectors)
    assert not torch.allclose(with_scene[0], expected[0])
    torch.testing.assert_close(without[0], expected[0])


def test_regions_are_read_at_the_two_scales_that_suit_them():
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 224, 224], [0, 0, 900, 900], [0, 0, 150, 150]])
    pairs = nearest_scales(boxes, (0.5, 1.0, 2.0))
    assert pairs[0].tolist() == [1, 2]  # small regions at large scales
    assert pairs[2].tolist() == [0, 1]
    assert pairs[3].tolist() == [1, 2]  # 150 and 300 px lie nearer to 224 than 75 and 150


def test_scales_are_merged_by_maxima():
    model = small_model(LOW)
    images = [torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(0))]
    finder = DetectionInference([model], test_sizes=(48, 64, 96))
    views = finder._views(images)
    assert [view.images.image_sizes[0][0] for view in views] == [64, 48, 64, 96]
    box = torch.tensor([[10.0, 10, 80, 80], [0, 0, 9, 9]])
    with torch.no_grad():
        merged = finder._vectors(views[1:], 0, [box])
        each = [
            model.roi_heads.vectors(
                view.features[0], [box * view.factors[0]], view.images.image_sizes
            )
            for view in views[1:]
        ]
    pairs = nearest_scales(box, [view.factors[0] for view in views[1:]])
    for row, (one, other) in enumerate(pairs.tolist()):
        torch.testing.assert_close(merged[row], torch.maximum(each[one][row], each[other][row]))


def test_multi_scale_boxes_are_in_pixels_of_the_given_image():
    model = shifting(0.0)
    images = [torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(0))]
    (found,) = DetectionInference([model], test_sizes=(64, 128))(images)
    small = nn.functional.interpolate(
        images[0][None], size=(64, 64), mode="bilinear", antialias=True
    )
    (proposals,) = proposals_of(model, [small[0]])
    boxes = found["boxes"][found["labels"] == 1]
    assert distance(proposals * 2, boxes).max() < 1e-3


def test_an_ensemble_joins_proposals_and_averages_scores_and_boxes():
    one, other = small_model(LOW), small_model(LOW, seed=5)
    images = random_images()
    finder = DetectionInference([one, other])
    views = finder._views(images)
    sizes = [(90, 130), (41, 20)]
    with torch.no_grad():
        proposals = finder._propose(views[0])
        alone = [proposals_of(each, images) for each in (one, other)]
        read = finder._score_regions(views, proposals, sizes)
        singles = [
            DetectionInference([each])._score_regions(
                DetectionInference([each])._views(images), proposals, sizes
            )
            for each in (one, other)
        ]
    for joined, *parts in zip(proposals, *alone, strict=True):
        torch.testing.assert_close(joined, torch.cat(parts))
    for both, *parts in zip(read, *singles, strict=True):
        torch.testing.assert_close(both[1], (parts[0][1] + parts[1][1]) / 2)
    assert len(flatten_candidates(read, 0.0)[0]["boxes"]) > 0


def test_an_ensemble_of_equal_models_detects_what_one_detects():
    model = small_model(dataclasses.replace(FPN, score_threshold=0.1))
    for one, twins in zip(
        DetectionInference([model])(random_images()),
        DetectionInference([model, model])(random_images()),
        strict=True,
    ):
        torch.testing.assert_close(twins["boxes"], one["boxes"])
        torch.testing.assert_close(twins["scores"], one["scores"])


def test_masks_follow_the_boxes_of_the_extensions():
    model = small_model(dataclasses.replace(LOW, max_detections=5), "instances")
    for refine in (False, True):
        for found in DetectionInference([model], refine=refine, test_sizes=(48, 64))(
            random_images()
        ):
            assert found["masks"].shape == (len(found["boxes"]), 1, 28, 28)


def test_unsupported_test_options_are_refused():
    spec = dataclasses.replace(FPN, head="fcn")
    segmenter = small_model(spec, "segment", dataclasses.replace(NET, dilate=2))
    detector = small_model(LOW)
    means = Preprocessor(Preprocess()), torch.device("cpu"), "float32"
    with pytest.raises(ConfigError, match=r"^detect\.(refine|test_sizes)"):
        Predictor.of((segmenter,), *means, refine=True)
    with pytest.raises(ConfigError, match="test_sizes"):
        Predictor.of((detector,), *means, scales=(400,))
    for scales in ((0, 64), (8, 64), (64, 2_000_000)):
        with pytest.raises(ConfigError, match="test_sizes"):
            Predictor.of((detector,), *means, scales=scales)
    with pytest.raises(ConfigError, match="same task"):
        Predictor.of((detector, segmenter), *means)
    with pytest.raises(ConfigError, match="same classes"):
        DetectionInference([detector, small_model(LOW, classes=4)])
    test = Predictor.of((detector,), *means, scales=(96, 64))
    assert (test.shorter, test.longer, test.options.scales) == (96, 300, (64, 96))
