"""Weights of whole detectors: torchvision's give its outputs, detectron2's find their places."""

import dataclasses
import hashlib
import io
import logging
import pickle

import pytest
import safetensors.torch
import torch
import torchvision
from detect_models import C4, FPN, NET, random_images, small_model, to_detectron2
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import paste_masks_in_image

from resnets.config import ConfigError, DetectSpec, Preprocess, Recipe
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.models.build import assemble, build_model
from resnets.detect.models.weights import adapt_recipe, find_model_tensors, load_whole_weights
from resnets.models import build, catalog
from resnets.recipes.detection import split_name
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import to_lazy
from resnets.weights.read import Weights

AS_GIVEN = {
    "min_size": 96,
    "max_size": 400,
    "image_mean": [0.0, 0, 0],
    "image_std": [1.0, 1, 1],
    "box_score_thresh": 0.0,
    "num_classes": 6,
    "box_detections_per_img": 10,
    "rpn_pre_nms_top_n_test": 40,
    "rpn_post_nms_top_n_test": 40,
}
FEW = {"score_threshold": 0.0, "proposals": (40, 40), "max_detections": 10}


def lively(model: nn.Module) -> nn.Module:
    """In float64, so that equality is not blurred by the order of sums."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval().double()


def reference(kind, name="resnet18"):
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    return lively(kind(backbone, **AS_GIVEN))


def ours(name, task, classes=5, **spec):
    net, head = split_name(name, "fpn")
    recipe = Recipe(task=task, model=net, detect=DetectSpec(head=head, **spec))
    return assemble(build(net), recipe, classes).eval().double()


def whole(state):
    """A state dict as weights of a detector or segmenter."""
    contents = {name: to_lazy(tensor) for name, tensor in state.items()}
    return find_model_tensors(Weights("reference", contents))


def assert_equal_outputs(model, expected):
    images = [torch.randn(3, 96, 131).double(), torch.randn(3, 96, 96).double()]
    with torch.no_grad():
        for found, each in zip(model(images), expected(images), strict=True):
            assert len(each["boxes"]) > 0
            assert torch.equal(found["labels"], each["labels"])
            for name in ("boxes", "scores"):
                torch.testing.assert_close(found[name], each[name], atol=1e-8, rtol=1e-8)
            if "masks" in each:
                pasted = paste_masks_in_image(
                    found["masks"], found["boxes"], each["masks"].shape[-2:]
                )
                torch.testing.assert_close(pasted, each["masks"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "task"),
    [(FasterRCNN, "detect"), pytest.param(MaskRCNN, "instances", marks=pytest.mark.ci)],
)
def test_torchvisions_detectors_give_its_outputs(kind, task):
    expected = reference(kind)
    model = ours("resnet18-fpn", task, **FEW)
    load_whole_weights(model, whole(expected.state_dict()))
    assert_equal_outputs(model, expected)


@pytest.mark.slow
def test_torchvisions_named_detector_gives_its_outputs():
    torch.manual_seed(0)
    expected = lively(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **AS_GIVEN))
    model = ours("resnet50-fpn", "detect", **FEW)
    load_whole_weights(model, whole(expected.state_dict()))
    assert_equal_outputs(model, expected)


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_torchvisions_segmenters_give_its_outputs(name):
    torch.manual_seed(0)
    make = getattr(torchvision.models.segmentation, name)
    expected = lively(make(weights=None, weights_backbone=None, num_classes=4, aux_loss=True))
    head = name.partition("_")[0]
    model = ours(f"resnet50-{head}", "segment", 4, aux_loss_weight=0.5)
    load_whole_weights(model, whole(expected.state_dict()))
    image = torch.randn(1, 3, 33, 49).double()
    with torch.no_grad():
        torch.testing.assert_close(model(image), expected(image)["out"])


@pytest.mark.ci
def test_names_from_before_torchvision_wrapped_convolutions_are_read():
    expected = reference(MaskRCNN)
    old = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        .replace("_blocks.0.0.", "_blocks.0.")
        .replace("mask_head.0.0.", "mask_head.mask_fcn1."): tensor
        for name, tensor in expected.state_dict().items()
        if not name.endswith("num_batches_tracked")  # frozen norms count nothing
    }
    assert "roi_heads.mask_head.mask_fcn1.weight" in old
    model = ours("resnet18-fpn", "instances", **FEW)
    load_whole_weights(model, whole(old))
    assert_equal_outputs(model, expected)


@pytest.mark.parametrize(("spec", "task"), [(FPN, "instances"), (C4, "detect")])
def test_detectron2s_detectors_find_their_places(spec, task, tmp_path):
    net = dataclasses.replace(NET, block="bottleneck", stride_in="1x1")
    expected = small_model(dataclasses.replace(spec, score_threshold=0.1), task, net)
    path = tmp_path / "model_final.pkl"
    path.write_bytes(
        pickle.dumps({"model": to_detectron2(expected, spec.head), "__author__": "D2"})
    )
    model_spec = dataclasses.replace(net, stride_in="3x3")
    detect = dataclasses.replace(spec, score_threshold=0.1)
    recipe = Recipe(task=task, model=model_spec, detect=detect, weights=str(path))
    model, preprocessor = build_model(recipe, 3)
    assert preprocessor.spec.channel_order == "bgr"
    assert model.net.spec.stride_in == "1x1"
    with torch.no_grad():
        for found, each in zip(
            model.eval()(random_images()), expected(random_images()), strict=True
        ):
            assert len(each["boxes"]) > 0
            for name, values in each.items():
                torch.testing.assert_close(found[name], values)


def test_a_detector_of_other_classes_gives_all_but_its_last_layers(tmp_path, caplog):
    expected = small_model(FPN, "instances", classes=5)
    path = tmp_path / "detector.safetensors"
    safetensors.torch.save_file(expected.state_dict(), path)
    recipe = Recipe(task="instances", model=NET, detect=FPN, weights=str(path))
    with caplog.at_level(logging.INFO, "resnets"):
        model, _ = build_model(recipe, 3)
    assert "new layers for other classes" in caplog.text
    assert model.roi_heads.box_predictor.cls_score.out_features == 4
    own, theirs = model.state_dict(), expected.state_dict()
    changed = [name for name in own if not torch.equal(own[name], theirs[name])]
    assert {name.split(".")[2] for name in changed} == {"cls_score", "bbox_pred", "mask_fcn_logits"}


def test_what_a_detector_of_our_own_states_is_compared_with_the_recipe(caplog):
    theirs = Recipe(task="detect", model=catalog.spec("resnet18", norm_eps=0.0), detect=FPN)
    weights = Weights("run", {}, Preprocessor(Preprocess()), recipe=theirs)
    recipe = dataclasses.replace(theirs, model=catalog.spec("resnet18"))
    adapted, _ = adapt_recipe(recipe, weights)
    assert adapted.model.norm_eps == 0  # which names of networks do not tell
    assert not caplog.messages
    with pytest.raises(
        ConfigError, match="run are for a network with depths .* add --model resnet18"
    ):
        adapt_recipe(dataclasses.replace(recipe, model=catalog.spec("resnet34")), weights)
    other = dataclasses.replace(FPN, anchor_sizes=(16, 32, 64, 128, 256))
    adapt_recipe(dataclasses.replace(recipe, detect=other), weights)
    assert "detect.anchor_sizes" in caplog.text


def test_a_classifiers_weights_start_a_detector(tmp_path):
    torch.manual_seed(1)
    net = build(catalog.spec("resnet18", num_classes=7))
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    spec = catalog.spec("resnet18")
    model, _ = build_model(Recipe(task="detect", model=spec, weights=str(path)), 3)
    for name, tensor in net.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(model.net.state_dict()[name], tensor)


def test_what_does_not_fit_is_named():
    expected = reference(FasterRCNN)
    with pytest.raises(WeightsError, match="reference.*resnet18-c4"):
        load_whole_weights(ours("resnet18-c4", "detect"), whole(expected.state_dict()))
    with pytest.raises(WeightsError, match="roi_heads.mask"):
        load_whole_weights(ours("resnet18-fpn", "instances"), whole(expected.state_dict()))


@pytest.mark.slow
def test_torchvisions_published_detectors_load_by_name(tmp_path, monkeypatch):
    """A file as torchvision would have fetched it: named after its hash, in torch's cache."""
    torch.manual_seed(0)
    expected = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None
    )
    buffer = io.BytesIO()
    torch.save(expected.state_dict(), buffer)
    name = f"fasterrcnn-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes(buffer.getvalue())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    entry = torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    monkeypatch.setattr(entry.value, "url", f"https://nowhere.invalid/{name}")
    net, _ = split_name("resnet50-fpn", "fpn")
    model, _ = build_model(Recipe(task="detect", model=net, weights="torchvision:COCO_V1"), 3)
    assert model.net.spec.norm_eps == 0
    weight = expected.backbone.body.layer4[2].conv3.weight
    assert torch.equal(model.net.stage4[2].conv3.weight, weight)
    assert model.roi_heads.box_predictor.cls_score.out_features == 4


def test_torchvisions_names_are_for_what_it_has():
    for name, tag, message in (
        ("resnet18-fpn", "COCO_V1", "no resnet18-fpn for task 'detect'"),
        ("resnet50-c4", "COCO_V1", "no resnet50-c4"),
        ("resnet50-fpn", "COCO_V9", "no 'COCO_V9' for fasterrcnn_resnet50_fpn; did you"),
    ):
        net, head = split_name(name, "fpn")
        recipe = Recipe(
            task="detect", model=net, detect=DetectSpec(head=head), weights=f"torchvision:{tag}"
        )
        with pytest.raises(ConfigError, match=message):
            build_model(recipe, 3)
