"""Whole runs of detection, localisation and segmentation: the same job and loop as all others."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detect_models import C4, FPN, NET, PCR, SEGMENT, random_images, small_model, targets
from detect_sets import write_coco
from PIL import Image
from safetensors.torch import load_file, save_file

import resnets
from resnets.config import (
    ConfigError,
    DataSpec,
    EvalSpec,
    FinetuneSpec,
    OptimSpec,
    Recipe,
    ScheduleSpec,
    from_toml,
)
from resnets.data.batch import Batch
from resnets.data.decode.decode import decode_fitted
from resnets.data.decode.pixel_values import WARNED
from resnets.data.errors import DataError
from resnets.detect.models.build import assemble, check_recipe, load_detection_model
from resnets.models import build
from resnets.recipes import RECIPES, recipe
from resnets.train.log.run_log import read_rows
from resnets.train.run import run_training
from resnets.train.saver import Saver
from resnets.train.tasks.detection import DetectionTask, model_losses

SMALL = {"train_sizes": (48, 64), "max_size": 100, "proposals": (40, 20), "box_batch_size": 16}


def plan(root: Path, spec=FPN, task: str = "detect", **changes) -> Recipe:
    return dataclasses.replace(
        Recipe(
            name="small",
            task=task,  # type: ignore[arg-type]
            model=NET,
            data=DataSpec(source=str(root)),
            detect=dataclasses.replace(spec, **SMALL),
            optim=OptimSpec(lr=0.02, clip_norm=5.0),
            schedule=ScheduleSpec(kind="cosine"),
            eval=EvalSpec(every="2it"),
            duration="4it",
            batch_size=2,
            ema_decay=0.9,
            precision="float32",
            checkpoint_every="2it",
            log_every="1it",
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    write_coco(root, "train", [(80, 64), (64, 80), (90, 60), (64, 64)], 0)
    write_coco(root, "val", [(80, 64), (64, 80)], 1)
    write_coco(root, "test", [(70, 60)], 2)
    return root


@pytest.fixture(scope="module")
def one_class(tmp_path_factory) -> Path:
    """Every image has objects of its own class only."""
    root = tmp_path_factory.mktemp("one")
    for title, count in (("train", 6), ("val", 3)):
        document = write_coco(root, title, [(80, 64)] * count, len(title))
        for entry in document["annotations"]:
            entry["category_id"] = (3, 7, 9)[entry["image_id"] % 3]
        (root / "annotations" / f"instances_{title}.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(0)
    for title, count in (("train", 4), ("val", 2)):
        for folder in (f"images/{title}", f"masks/{title}"):
            (root / folder).mkdir(parents=True)
        for number in range(count):
            classes = rng.integers(0, 3, (60, 70)).astype(np.uint8)
            Image.fromarray(classes * 80).convert("RGB").save(root / f"images/{title}/{number}.png")
            Image.fromarray(classes).save(root / f"masks/{title}/{number}.png")
    (root / "classes.txt").write_text("sky\nsea\nland\n")
    return root


@pytest.fixture(scope="module")
def detection(coco, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "detection"
    return out, run_training(plan(coco), out, device="cpu", quiet=True)


def test_a_run_leaves_what_every_run_leaves(detection):
    out, result = detection
    for name in ("recipe.toml", "environment.json", "metrics.jsonl", "curves.svg", "result.json"):
        assert (out / name).is_file()
    page = (out / "report.html").read_text()
    assert "mAP@.5" in page
    assert "top-1" not in page
    assert "mAP@.5 (%)" in (out / "curves.svg").read_text()
    assert {"AP", "AP50", "error", "boxes", "per_class"} <= set(result["test"])
    assert result["test"]["examples"] == 1
    assert "shorter side 64 px" in result["test"]["protocol"]
    train = [row for row in read_rows(out) if row["kind"] == "train"]
    parts = [name for name in train[0] if name.startswith("loss_")]
    assert len(parts) == 4
    for row in train:
        assert row["loss"] == pytest.approx(sum(row[name] for name in parts))


def test_the_best_checkpoint_loads_as_a_detector(detection, coco):
    out, result = detection
    model = load_detection_model(out)
    assert model.classes == ("red", "green", "blue")
    assert model.recipe == from_toml(out / "recipe.toml")
    assert not model.training
    assert "averaged weights" in model.origin
    assert model.origin in result["test"]["protocol"]
    for public in (resnets.load(out), resnets.Run(out).model):
        assert type(public) is type(model)
    with torch.no_grad():
        assert len(model(random_images())) == 2


def test_lines_say_what_detection_measures(coco, tmp_path, capsys):
    short = plan(coco, duration="2it")
    run_training(short, tmp_path / "run", device="cpu")
    output = " ".join(capsys.readouterr().err.split())  # lines are wrapped
    assert "small-residual-fpn on" in output
    assert "4 training images, 2 validation" in output
    assert "epoch 1/1 loss " in output
    assert "val mAP " in output
    assert "mAP@.5 " in output


def test_resuming_is_bitwise_as_if_never_stopped(detection, coco, tmp_path, monkeypatch):
    whole, _ = detection
    save = Saver.save_last

    def killed(self, state, **options):
        save(self, state, **options)
        self.wait()  # what is saved is on the disk when the run is killed
        if state.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Saver, "save_last", killed)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_training(plan(coco), out, device="cpu", quiet=True)
    monkeypatch.undo()
    run_training(None, out, device="cpu", quiet=True)
    for name in ("last", "best"):
        one, other = (load_file(run / f"checkpoints/{name}.safetensors") for run in (whole, out))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.ci
def test_masks_are_learned_and_measured(coco, tmp_path):
    result = run_training(plan(coco, task="instances"), tmp_path / "run", device="cpu", quiet=True)
    assert {"AP", "mask_AP", "mask_AP50"} <= set(result["test"])
    assert result["test"]["error"] == pytest.approx(100 - result["test"]["mask_AP"])
    assert load_detection_model(tmp_path / "run").masks


def test_c4_with_recomputed_and_frozen_norms(coco, tmp_path):
    """The paper's appendix A: statistics of the training set, which training leaves alone."""
    torch.manual_seed(0)
    weights = tmp_path / "net.safetensors"
    net = build(NET)
    save_file(net.state_dict(), weights)
    spec = dataclasses.replace(C4, recompute_norm=True)
    settings = plan(
        coco,
        spec,
        weights=str(weights),
        finetune=FinetuneSpec(freeze_norm=True),
        ema_decay=0.0,
        duration="2it",
    )
    run_training(settings, tmp_path / "run", device="cpu", quiet=True)
    work = DetectionTask.open(settings)
    work.setup(torch.device("cpu"))
    start = work.model.net.state_dict()
    end = load_detection_model(tmp_path / "run").net.state_dict()
    for name in ("stem.norm.running_mean", "stage4.0.norm1.running_var", "stage2.0.norm1.weight"):
        assert torch.equal(start[name], end[name])
    assert not torch.equal(start["stem.norm.running_mean"], net.stem.norm.running_mean)
    assert not torch.equal(start["stage4.0.conv1.weight"], end["stage4.0.conv1.weight"])


@pytest.mark.ci
def test_localization_then_rcnn_on_its_proposals(one_class, tmp_path):
    first = tmp_path / "pcr"
    result = run_training(plan(one_class, PCR, "localize"), first, device="cpu", quiet=True)
    assert {"top1_error", "given_error"} <= set(result["test"])
    assert "top5_error" not in result["test"]  # of three classes
    assert result["test"]["error"] == result["test"]["top1_error"]
    net = dataclasses.replace(NET, input_size=32)
    second = dataclasses.replace(PCR, head="rcnn", proposals_from=str(first))
    settings = plan(one_class, second, "localize", model=net)
    out = tmp_path / "rcnn"
    wide = dataclasses.replace(settings, model=dataclasses.replace(net, widths=(8, 12, 16, 24)))
    with pytest.raises(ConfigError, match="different anchors"):
        run_training(wide, out, device="cpu", quiet=True)
    result = run_training(settings, out, device="cpu", quiet=True)
    assert "given_error" in result["test"]
    shutil.move(first, tmp_path / "elsewhere")  # the checkpoint holds all that it needs
    twin, before = (
        load_detection_model(out).proposer.state_dict(),
        load_detection_model(tmp_path / "elsewhere").state_dict(),
    )
    assert all(torch.equal(twin[name], before[name]) for name in before)


def test_segmentation_learns_and_is_measured(maps, tmp_path):
    net = dataclasses.replace(NET, dilate=2)
    spec = dataclasses.replace(SEGMENT, crop=48)
    result = run_training(
        plan(maps, spec, "segment", model=net), tmp_path / "run", device="cpu", quiet=True
    )
    assert 0 <= result["test"]["mean_iou"] <= 100
    assert result["test"]["error"] == pytest.approx(100 - result["test"]["mean_iou"])
    assert "mean IoU" in (tmp_path / "run" / "report.html").read_text()
    assert load_detection_model(tmp_path / "run").classes == ("sky", "sea", "land")


def test_losses_are_summed_over_images():
    """Crowds are left out by the stream (test_detect_stream)."""
    batch = Batch(random_images(), targets(), torch.tensor([0, 1]))
    losses = model_losses(small_model(FPN).train(), batch)
    assert losses.count == 2
    assert losses.sums["loss"] == 2 * losses.total


def test_messages_on_16_bit_images_name_only_fields_that_detection_reads(tmp_path, caplog):
    pixels = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    WARNED.discard("levels")
    data = (tmp_path / "deep.png").read_bytes()
    decode_fitted(data, "deep.png", lambda *_: (48, 48))
    assert "8 bits" in caplog.text
    assert "value_range" not in caplog.text
    Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "deep.tif")
    with pytest.raises(DataError) as caught:
        decode_fitted((tmp_path / "deep.tif").read_bytes(), "deep.tif", lambda *_: (48, 48))
    assert "value_range" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["detect", "detect-paper", "detect-small", "instances", "segment", "localize"]
)
def test_recipes_describe_models_that_can_be_built(name):
    for net in ("resnet18", "resnet50-v1", "preact-resnet18"):
        chosen = recipe(name, net)
        check_recipe(chosen)
        with torch.device("meta"):
            assemble(build(chosen.model), chosen, 4)
    assert "Command:" in (RECIPES[name].__doc__ or "")
    if name in ("detect", "detect-paper"):
        assert recipe(name, "vgg16").detect.head == "c4"


def test_data_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no such folder, tar or zip"):
        run_training(plan(tmp_path / "nowhere"), tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.ci
def test_weights_with_a_mean_image_are_fitted_with_its_mean_color(tmp_path):
    write_coco(tmp_path / "set", "train", [(80, 60), (60, 80)] * 2)
    write_coco(tmp_path / "set", "val", [(80, 60)], seed=9)
    weights = "resnets:cifar10/cifar-resnet20"  # normalized by a mean image of 32 px
    run = resnets.train(
        "detect", data=tmp_path / "set", model=resnets.load(weights).spec, weights=weights,
        out=tmp_path / "run", iterations=1, batch_size=2, device="cpu", quiet=True,
        detect={"train_sizes": [64], "max_size": 90, "anchor_sizes": [8, 16, 32, 48]},
    )  # fmt: skip
    assert run.result["val"]["examples"] == 1
    assert not run.model.preprocess.spec.mean_image
