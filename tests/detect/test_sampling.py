"""Matching, sampling and losses of detectors are torchvision's to the bit."""

import copy

import pytest
import torch
from detect_models import C4, FPN, random_images, small_model, targets
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign

from resnets.detect.models import roi_heads
from resnets.detect.models.layers import ProposalNetwork, RegionAlign
from resnets.detect.models.sampling import BoxMatcher, BoxSampler, rows_of


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("high", "low", "best"), [(0.7, 0.3, True), (0.5, 0.5, False)])
def test_matches_are_torchvisions(seed, high, low, best):
    generator = torch.Generator().manual_seed(seed)
    overlaps = torch.rand(4, 50, generator=generator).mul(20).round() / 20  # with ties
    overlaps[seed % 4] /= 4  # the best of this object are below the thresholds
    expected = Matcher(high, low, allow_low_quality_matches=best)(overlaps.clone())
    assert torch.equal(BoxMatcher(high, low, allow_low_quality_matches=best)(overlaps), expected)
    assert expected.unique().numel() > 2


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_to_match(shape):
    with pytest.raises(ValueError, match="no boxes" if shape[0] else "no objects"):
        BoxMatcher(0.7, 0.3)(torch.zeros(shape))


@pytest.mark.parametrize("ones", [0.5, 0.02, 0.0, 1.0])
def test_samples_are_torchvisions(ones):
    generator = torch.Generator().manual_seed(1)
    labels = [
        (torch.rand(size, generator=generator) < ones).long() * 3
        - (torch.rand(size, generator=generator) < 0.1).long()
        for size in (200, 90)
    ]
    torch.manual_seed(7)
    expected = BalancedPositiveNegativeSampler(64, 0.25)(labels)
    torch.manual_seed(7)
    sampled = BoxSampler(64, 0.25)(labels)
    for kind in (0, 1):
        for mask, rows in zip(expected[kind], (each[kind] for each in sampled), strict=True):
            assert torch.equal(torch.where(mask)[0], rows)
    assert torch.equal(rows_of([labels[0] > 0])[0], torch.where(labels[0] > 0)[0])


def as_torchvision(model):
    """The same detector with torchvision's code in place of what waits less."""
    model = copy.deepcopy(model)
    for part, names in (
        (model.rpn, ("filter_proposals", "assign_targets_to_anchors", "compute_loss")),
        (model.roi_heads, ("assign_targets_to_proposals", "subsample")),
    ):
        theirs = RegionProposalNetwork if isinstance(part, ProposalNetwork) else RoIHeads
        for name in names:
            setattr(part, name, getattr(theirs, name).__get__(part))
        old, sampler = part.proposal_matcher, part.fg_bg_sampler
        thresholds = (old.high_threshold, old.low_threshold, old.allow_low_quality_matches)
        part.proposal_matcher = Matcher(*thresholds)
        fraction = sampler.max_positive / sampler.per_image
        part.fg_bg_sampler = BalancedPositiveNegativeSampler(sampler.per_image, fraction)
        part.box_coder = BoxCoder(part.box_coder.weights)
    for module in model.modules():
        if isinstance(module, RegionAlign):
            module.__class__ = MultiScaleRoIAlign
    return model


def losses_and_gradients(model, images, given):
    torch.manual_seed(3)
    losses = model(images, copy.deepcopy(given))
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return losses, gradients


@pytest.mark.parametrize(("spec", "masks"), [(FPN, True), (C4, False)])
def test_a_detector_equals_torchvisions_code(spec, masks, monkeypatch):
    model, given = small_model(spec, "instances" if masks else "detect").train(), targets()
    reference = as_torchvision(model)
    ours = losses_and_gradients(model, random_images(), given)
    monkeypatch.setattr(roi_heads, "region_losses", lambda *args: fastrcnn_loss(*args[:4]))
    theirs = losses_and_gradients(reference, random_images(), given)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, each in mine.items():
            assert torch.equal(each, other[name]), name
    with torch.no_grad():
        found, expected = (m.eval()(random_images()) for m in (model, reference))
    for mine, other in zip(found, expected, strict=True):
        assert all(torch.equal(each, other[name]) for name, each in mine.items())
