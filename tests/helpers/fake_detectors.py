"""Waits of detectors, localizers and segmenters on a simulated device (fake_device.py)."""

from __future__ import annotations

import copy
import dataclasses

import fake_device
import torch
from detect_models import C4, FPN, NET, PCR, SEGMENT, random_images, small_model, targets

from resnets.detect.models.base import DetectionModel, InferenceOptions


def detectors() -> dict[str, DetectionModel]:
    """Small models by task and head."""
    rcnn = dataclasses.replace(PCR, head="rcnn", proposals=(20, 10))
    square = dataclasses.replace(NET, input_size=32)
    return {
        "detect fpn": small_model(FPN),
        "detect c4": small_model(C4),
        "instances": small_model(FPN, "instances"),
        "localize": small_model(PCR, "localize"),
        "localize rcnn": small_model(rcnn, "localize", square),
    }


def waits_of_inference(kind: str) -> dict[str, list[int]]:
    """Waits of the outputs of one and of two images, by task and head; outputs are the CPU's."""
    models = detectors() | {"segment": small_model(SEGMENT, "segment")}
    cases = {name: (model, InferenceOptions()) for name, model in models.items()}
    cases["refined"] = models["detect fpn"], InferenceOptions(refine=True)
    cases["two scales"] = models["detect fpn"], InferenceOptions(scales=(64, 96))
    seen: dict[str, list[int]] = {}
    for name, (model, options) in cases.items():
        reference = copy.deepcopy(model).to("cpu")
        model.to(kind)
        for count in (1, 2):
            images, sizes = torch.stack(random_images()[:1] * count), [(180, 200)] * count
            model.infer(images.to(kind), sizes, (), options)  # the first one also moves anchors
            fake_device.waits.clear()
            found = model.infer(images.to(kind), sizes, (), options)
            copied = fake_device.waits.pop(("copy to the device", "outside the package"))
            assert copied == 1  # of the images, here
            seen.setdefault(name, []).append(sum(fake_device.waits.values()))
            classes = [f"class {label}" for label in range(256)]
            for ours, theirs in zip(
                found, reference.infer(images, sizes, (), options), strict=True
            ):
                assert ours.to_json(classes) == theirs.to_json(classes), name
    return seen


def waits_of_detectors(kind: str) -> dict[str, int]:
    """Waits of losses and gradients of two images, by task and head; gradients are the CPU's."""

    def step(model: torch.nn.Module, kind: str) -> None:
        given = [{name: each.to(kind) for name, each in targets()[0].items()} for _ in range(2)]
        images = [random_images()[0].to(kind) for _ in range(2)]
        torch.manual_seed(0)
        fake_device.waits.clear()
        sum(model(images, given).values()).backward()

    seen = {}
    for name, model in detectors().items():
        reference = copy.deepcopy(model.train())
        step(reference, "cpu")
        step(model.to(kind), kind)
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None)
            assert ours.grad is None or torch.equal(ours.grad.cpu(), theirs.grad), name
        step(model, kind)  # the first one also moved anchors
        seen[name] = sum(fake_device.waits.values())
    return seen
