"""Detectors and segmenters: what they are made of, what they give, what they refuse."""

import copy
import dataclasses

import pytest
import torch
from detect_models import C4, FPN, NET, PCR, SEGMENT, VGG, random_images, small_model, targets
from torch import nn

from resnets.config import ConfigError, DetectSpec, Recipe
from resnets.detect.models.build import assemble, check_recipe, recompute_norms
from resnets.detect.models.layers import pad, stage_channels, stage_strides
from resnets.models import build, catalog
from resnets.recipes.detection import split_name

BOX_LOSSES = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50-v1", "cifar-resnet8", "preact-resnet18", "vgg11"]
)
def test_strides_and_channels_are_those_of_the_network(name):
    spec = catalog.spec(name)
    with torch.device("meta"):
        net = build(spec)
        maps = net.stages(torch.empty(1, 3, 224, 224))
    assert {k: 224 // x.shape[-1] for k, x in maps.items()} == stage_strides(spec)
    channels = {k: x.shape[1] for k, x in maps.items() if k != "stem"}
    assert channels == stage_channels(spec)


def test_strides_of_a_dilated_network():
    spec = dataclasses.replace(catalog.spec("resnet18"), dilate=2)
    with torch.device("meta"):
        maps = build(spec).stages(torch.empty(1, 3, 224, 224))
    assert {k: 224 // x.shape[-1] for k, x in maps.items()} == stage_strides(spec)
    assert stage_strides(spec)["stage4"] == 8


def test_padding_keeps_images_and_adds_zeros():
    images = random_images()
    padded = pad(images)
    assert padded.tensors.shape == (2, 3, 96, 160)
    assert padded.image_sizes == [(90, 130), (41, 20)]
    assert torch.equal(padded.tensors[1, :, :41, :20], images[1])
    padded.tensors[1, :, :41, :20] = 0
    assert padded.tensors[1].eq(0).all()


@pytest.mark.parametrize(
    ("spec", "net"),
    [
        (FPN, NET),
        (C4, NET),
        (dataclasses.replace(C4, roi="pool", context=True), NET),
        (dataclasses.replace(C4, roi_size=None), VGG),
        (dataclasses.replace(FPN, anchor_sizes=(16, 32, 64)), VGG),
        (C4, dataclasses.replace(NET, block="preact-basic")),
        (dataclasses.replace(FPN, anchor_sizes=(8, 16, 32, 64)), catalog.spec("cifar-resnet8")),
    ],
)
def test_every_detector_learns_and_finds(spec, net):
    model = small_model(spec, net=net)
    losses = model.train()(random_images(), targets())
    assert set(losses) == BOX_LOSSES
    sum(losses.values()).backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == []
    model.eval().roi_heads.score_thresh = 0.0
    with torch.no_grad():
        found = model(random_images())
    for each, image in zip(found, random_images(), strict=True):
        height, width = image.shape[-2:]
        boxes = each["boxes"]
        assert len(boxes) > 0
        assert boxes.min() >= 0
        assert boxes[:, [0, 2]].max() <= width
        assert boxes[:, [1, 3]].max() <= height
        assert set(each["labels"].tolist()) <= {1, 2, 3}
        assert torch.equal(each["scores"], each["scores"].sort(descending=True)[0])


@pytest.mark.parametrize("spec", [FPN, C4])
def test_mask_detectors_learn_and_draw(spec):
    model = small_model(spec, "instances")
    losses = model.train()(random_images(), targets())
    assert set(losses) == {*BOX_LOSSES, "loss_mask"}
    sum(losses.values()).backward()
    model.eval().roi_heads.score_thresh = 0.0
    with torch.no_grad():
        found = model(random_images())
    for each in found:
        assert each["masks"].shape[:2] == (len(each["boxes"]), 1)
        assert 0 <= each["masks"].min() <= each["masks"].max() <= 1


def test_c4_runs_the_last_stage_on_regions_and_registers_it_once():
    model = small_model(C4)
    shapes = []
    model.net.stage4.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape)))
    with torch.no_grad():
        model(random_images()[:1])
    (shape,) = shapes
    assert shape[1:] == (20, 3, 3)  # regions of 6 x 6 at stride 2, not an image
    tensors = model.state_dict()
    assert len({each.data_ptr() for each in tensors.values()}) == len(tensors)
    assert not any("_net" in name for name in tensors)


def test_a_copy_of_a_c4_detector_uses_its_own_network():
    model = small_model(C4)
    twin = copy.deepcopy(model)
    nn.init.zeros_(model.net.stage4[0].norm2.weight)
    vector = torch.randn(2, 16, 6, 6)
    with torch.no_grad():
        before, after = twin.roi_heads.box_head(vector), model.roi_heads.box_head(vector)
    assert not torch.equal(before, after)


def test_vgg_detectors_use_the_networks_fc6_and_fc7():
    model = small_model(dataclasses.replace(C4, roi_size=None), net=VGG)
    region = torch.rand(2, 8, 7, 7)
    with torch.no_grad():
        x = model.net.fc1(region.flatten(1)).relu()
        assert torch.equal(model.roi_heads.box_head(region), model.net.fc2(x).relu())
    assert model.features(torch.zeros(1, 3, 64, 64))["0"].shape[-1] == 16  # without its last pool


def test_proposals_are_constants_for_the_second_half():
    model = small_model(FPN).train()
    losses = model(random_images(), targets())
    (losses["loss_classifier"] + losses["loss_box_reg"]).backward()
    assert model.rpn.head.bbox_pred.weight.grad is None
    assert model.net.stage1[0].conv1.weight.grad.abs().sum() > 0


def test_boxes_are_float32_under_bfloat16():
    model = small_model(FPN)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        proposals = model.propose(
            pad(random_images()), model.features(pad(random_images()).tensors)
        )
        (found, _) = model(random_images())
    assert all(each.dtype == torch.float32 for each in proposals)
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


def test_segmenters_label_every_pixel_and_exclude_what_counts_for_nothing():
    net = dataclasses.replace(NET, dilate=2)
    for head in ("fcn", "deeplabv3"):
        model = small_model(dataclasses.replace(SEGMENT, head=head), "segment", net)
        images = torch.randn(2, 3, 50, 70)
        assert model(images).shape == (2, 3, 50, 70)
        maps = torch.randint(0, 3, (2, 50, 70))
        losses = model.train()(images, maps)
        assert set(losses) == {"loss_pixels", "loss_auxiliary"}
        nothing = model(images, torch.full_like(maps, 255))
        assert sum(nothing.values()) == 0
    model.eval()
    half = maps.clone()
    half[:, 25:] = 255
    scores = model(images)
    expected = nn.functional.cross_entropy(scores[:, :, :25], maps[:, :25])
    torch.testing.assert_close(model(images, half)["loss_pixels"], expected)


def test_localizers_give_each_class_a_share_and_a_box():
    model = small_model(PCR, "localize")
    with torch.no_grad():
        shares, boxes, confidence = model(random_images())
    assert confidence.shape == (2, 3)
    assert shares.shape == (2, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(2))
    assert boxes.shape == (2, 3, 4)
    for each, image in zip(boxes, random_images(), strict=True):
        assert each[:, 2].max() <= image.shape[-1]
        assert each[:, 3].max() <= image.shape[-2]
    losses = model.train()(random_images()[:1], targets()[:1])
    assert set(losses) == {"loss_class", "loss_objectness", "loss_box_reg"}


def test_a_localizers_box_is_that_of_the_likeliest_anchor():
    model = small_model(PCR, "localize")
    with torch.no_grad():
        _, objectness, offsets, anchors, _ = model.read(pad(random_images()[:1]))
        _, boxes, _ = model(random_images()[:1])
    centers = (anchors[0][:, :2] + anchors[0][:, 2:]) / 2
    best = [
        max(
            (
                row
                for row in range(len(anchors[0]))
                if centers[row, 0] < 130 and centers[row, 1] < 90
            ),
            key=lambda row: objectness[0, row, label].item(),
        )
        for label in range(3)
    ]
    for label, row in enumerate(best):
        moved = model.coder.decode_single(offsets[0, row : row + 1, label], anchors[0][row][None])
        low, high = torch.zeros(4), torch.tensor([130.0, 90, 130, 90])
        torch.testing.assert_close(boxes[0, label], moved[0].clamp(low, high))


def test_rcnn_refines_the_proposals_and_does_not_change_the_proposer():
    spec = dataclasses.replace(PCR, head="rcnn", proposals=(20, 10))
    net = dataclasses.replace(NET, input_size=32)
    model = small_model(spec, "localize", net)
    losses = model.train()(random_images()[:1], targets()[:1])
    sum(losses.values()).backward()
    assert all(p.grad is None for p in model.proposer.parameters())
    assert not model.proposer.training
    assert model.net.stem.conv.weight.grad is not None
    with torch.no_grad():
        shares, boxes, sure = model.eval()(random_images())
        first, before, _ = model.proposer(random_images())
    assert (sure >= 1).all()  # of three classes, all of which it has read
    assert torch.equal(shares, first)
    assert not torch.equal(boxes, before)


class Batches:
    """A stream of two batches of images."""

    examples = 4

    def batches(self):
        generator = torch.Generator().manual_seed(1)
        for _ in range(9):
            images = [torch.randn(3, 64, 64, generator=generator) for _ in range(2)]
            yield type("Batch", (), {"images": images})


def test_recomputed_norms_are_plain_averages_over_one_epoch():
    net = build(NET)
    recompute_norms(net, Batches(), Recipe(batch_size=2))  # type: ignore[arg-type]
    batches = [
        torch.stack(batch.images) for _, batch in zip(range(2), Batches().batches(), strict=False)
    ]
    means = [net.stem.conv(images).mean((0, 2, 3)) for images in batches]
    torch.testing.assert_close(net.stem.norm.running_mean, torch.stack(means).mean(0))
    assert net.stem.norm.momentum == 0.1


def test_names_say_network_and_head():
    assert split_name("resnet50-c4", "fpn")[1] == "c4"
    assert split_name("resnet101-v1-c4", "fpn")[0].stride_in == "1x1"
    assert split_name("vgg16", "fpn")[1] == "c4"
    assert split_name("resnet18", "fpn")[1] == "fpn"
    assert split_name("resnet50-fcn", "deeplabv3")[0].dilate == 2
    with pytest.raises(ConfigError, match="resnet51"):
        split_name("resnet51-fpn", "fpn")


@pytest.mark.parametrize(
    ("task", "spec", "message"),
    [
        ("segment", FPN, "detect.head: 'fpn' is not for task 'segment'; use fcn or deeplabv3"),
        ("detect", SEGMENT, "detect.head: 'fcn' is not for task 'detect'; use fpn or c4"),
        ("localize", dataclasses.replace(PCR, head="rcnn"), "detect.proposals_from"),
    ],
)
def test_heads_and_tasks_have_to_fit(task, spec, message):
    with pytest.raises(ConfigError, match=message):
        check_recipe(Recipe(task=task, model=NET, detect=spec))


def test_recipes_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="detect.anchor_sizes"):
        assemble(build(NET), Recipe(detect=DetectSpec(anchor_sizes=(32,)), task="detect"), 3)
    with pytest.raises(ConfigError, match="detect.roi"):
        assemble(build(NET), Recipe(detect=DetectSpec(roi="pool"), task="detect"), 3)
    with pytest.raises(ConfigError, match="in_channels: 1"):
        check_recipe(Recipe(task="detect", model=dataclasses.replace(NET, in_channels=1)))
    with pytest.raises(ConfigError, match="compile"):
        check_recipe(Recipe(task="detect", model=NET, compile="on"))
