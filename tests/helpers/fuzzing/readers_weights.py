"""Weights of every maker, and what describes them; checkpoints; exported artifacts."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from caffe_model import caffemodel, random_blobs
from checkpoint_files import save_checkpoint
from encode_weights import encoded
from small_models import RESIDUAL, small_net

import resnets
from fuzzing.readers import Reader, Way
from resnets.config import ModelSpec, Preprocess, Recipe, dump_json, to_dict
from resnets.data import Preprocessor
from resnets.models import ImageClassifier, build
from resnets.train.saver import restore_state
from resnets.train.state import new_state
from resnets.weights import folder as folders
from resnets.weights.checkpoint.find import open_checkpoint, read_task
from resnets.weights.checkpoint.format import read_header
from resnets.weights.checkpoint.image_record import read_fingerprint
from resnets.weights.folder import read_config, write_folder
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.readers.configs.transformers import write_transformers

SMALL = ModelSpec(
    name="small",
    block="bottleneck",
    depths=(1, 1, 1, 1),
    widths=(2, 3, 4, 5),
    stem_width=4,
    stride_in="1x1",
    num_classes=3,
    input_size=64,
)
CLASSES = ("ant", "bee", "cat")


@cache
def _net() -> ImageClassifier:
    torch.manual_seed(0)
    net = build(SMALL)
    net.classes, net.preprocess = CLASSES, Preprocessor(Preprocess(size=64, resize=72))
    return net


def _place(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name / name


def write_torch(folder: Path) -> None:
    state = _net().state_dict()
    wrapped = {"state_dict": state, "epoch": 3, "meta": {"classes": list(CLASSES)}, "best": 0.5}
    torch.save(state, _place(folder, "plain.pth"))
    torch.save(wrapped, _place(folder, "wrapped.pth"))
    half = {f"module.{name}": tensor.half() for name, tensor in state.items()}
    torch.save({"model": half, "args": ["a"]}, _place(folder, "half.pt"))
    for name, content in (("old.pth", state), ("old-wrapped.pth", wrapped)):
        torch.save(content, _place(folder, name), _use_new_zipfile_serialization=False)


def write_pickles(folder: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in _net().state_dict().items()}
    for protocol in (0, 2, 5):
        content = {"model": arrays, "__author__": "x", "matching_heuristics": True}
        _place(folder, f"p{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))


def write_safetensors(folder: Path) -> None:
    state = _net().state_dict()
    safetensors.torch.save_file(state, _place(folder, "plain.safetensors"))
    meta = {"format": "pt", "classes": "[1]"}
    safetensors.torch.save_file(state, _place(folder, "meta.safetensors"), meta)


def write_caffe(folder: Path) -> None:
    for old in (False, True):
        blobs = random_blobs(SMALL, seed=1, bias=False, factor=1.0)
        name = f"{'old' if old else 'new'}.caffemodel"
        _place(folder, name).write_bytes(caffemodel(blobs, old))


def write_keras(folder: Path) -> None:
    import h5py

    net = _net()
    tensors = encoded(build_name_map("keras", net), net.state_dict())
    for name, options in (("net.h5", {}), ("packed.h5", {"compression": "gzip"})):
        with h5py.File(_place(folder, name), "w") as file:
            for path, tensor in tensors.items():
                layer, _, leaf = path.partition("/")
                values = tensor.numpy()
                file.create_dataset(f"{layer}/{layer}/{leaf}:0", data=values, **options)
            config = {"class_name": "Functional", "config": {"layers": [_layer("ReLU")]}}
            file.attrs["model_config"] = json.dumps(config)
    with zipfile.ZipFile(_place(folder, "net.keras"), "w") as archive:
        config = {"config": {"layers": [_layer("Conv2D"), _layer("BatchNormalization")]}}
        archive.writestr(zipfile.ZipInfo("config.json"), json.dumps(config))
        archive.writestr(zipfile.ZipInfo("metadata.json"), '{"keras_version": "3.0"}')
        data = (folder / "net.h5" / "net.h5").read_bytes()
        archive.writestr(zipfile.ZipInfo("model.weights.h5"), data)


def write_npz(folder: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in _net().state_dict().items()}
    np.savez(_place(folder, "plain.npz"), **arrays)
    np.savez_compressed(_place(folder, "packed.npz"), **arrays)


def _layer(kind: str) -> dict[str, object]:
    return {"class_name": kind, "config": {"name": "conv1_relu", "trainable": True}}


def create(root: Path) -> object:
    """The weights in a network of the right shape."""
    return resnets.create_model(SMALL, weights=str(next(root.iterdir())))


def write_folders(folder: Path) -> None:
    """The configs that `resnets push` writes, and timm and transformers."""
    net = resnets.create_model("resnet18", num_classes=3)
    net.classes, seen = CLASSES, Preprocess(size=64, resize=72)
    net.preprocess = Preprocessor(seen)
    own = {**folders._timm_config(net, "resnet18", None), "resnets": folders._resnets_config(net)}
    config, processor = write_transformers(net.spec, seen, net.classes)
    args = {"layers": [1, 1, 2, 1], "in_chans": 3, "output_stride": 16}
    timm = {**folders._timm_config(net, "resnet18", None), "model_args": args}
    for name, found in (("own", own), ("transformers", config), ("timm", timm)):
        root = folder / name / "net"
        root.mkdir(parents=True)
        dump_json(found, root / "config.json")
    dump_json(processor, folder / "transformers" / "net" / folders.PROCESSOR)


def described(root: Path) -> object:
    return read_config(root / "net")


def write_pushed(folder: Path) -> None:
    """A folder of `resnets push` with its tensors."""
    root = folder / "net" / "net"
    root.mkdir(parents=True)
    write_folder(small_net(RESIDUAL), root, None)


def load(root: Path) -> object:
    """A network that the files alone describe."""
    return resnets.load(str(root / "net"))


META = "checkpoint.json"


def _meta(net: ImageClassifier) -> dict[str, object]:
    recipe = Recipe(name="pets", model=net.spec)
    assert net.preprocess is not None
    return {
        "step": 3,
        "recipe": to_dict(recipe),
        "classes": list(net.classes),
        "preprocess": to_dict(net.preprocess.spec),
        "state": {
            "seconds": 1.5,
            "evals_since_best": 1,
            "micro_batch": 4,
            "schedule": new_state(net, recipe, 10).schedule.state_dict(),
            "interval": {"sums": {"loss": 1.0, "errors": 2.0}, "count": 7},
            "epoch": {"sums": {"loss": 1.0, "errors": 2.0}, "count": 7},
        },
    }


def write_checkpoints(folder: Path) -> None:
    """A file, a run of two, and the JSON of one, that is put in with its checksum."""
    net = small_net(RESIDUAL)
    tensors = {f"model/{name}": tensor for name, tensor in net.state_dict().items()}
    tensors["n_averaged"] = torch.tensor(1)
    save_checkpoint(_place(folder, "file.safetensors"), tensors, _meta(net))
    run = folder / "run" / "run" / "checkpoints"
    run.mkdir(parents=True)
    for name in ("best", "last"):
        save_checkpoint(run / f"{name}.safetensors", tensors, _meta(net))
    (folder / "json").mkdir()
    (folder / "json" / META).write_text(json.dumps(_meta(net)))


def _checkpoint(root: Path) -> Path:
    if not (root / META).is_file():
        return next(root.iterdir())
    path = root / f"{META}.safetensors"
    if not path.is_file():
        net = small_net(RESIDUAL)
        tensors = {f"model/{name}": tensor for name, tensor in net.state_dict().items()}
        try:
            meta = json.loads((root / META).read_bytes())
            save_checkpoint(path, tensors, meta if isinstance(meta, dict) else {"step": meta})
        except (ValueError, RecursionError):  # no JSON
            save_checkpoint(path, tensors, {"step": 1})
    return path


def checkpoint(root: Path) -> object:
    path = _checkpoint(root)
    read_header(path), read_task(path)
    found = open_checkpoint(path)
    return read_fingerprint(found)


def loaded(root: Path) -> object:
    return resnets.load(str(_checkpoint(root)))


def resumed(root: Path) -> object:
    """The state of training."""
    net = small_net(RESIDUAL)
    found = open_checkpoint(_checkpoint(root))
    state = new_state(net, Recipe(model=net.spec), 10)
    restore_state(state, found)
    return state


def write_artifacts(folder: Path) -> None:
    """One small network in each format, with its manifest and without."""
    from resnets.export.write.classifier import write_artifact
    from resnets.runtime.artifact import ArtifactMetadata, artifact_files
    from resnets.utils.files.write import file_sha256

    net = small_net(RESIDUAL)
    for kind, name in (("onnx", "net.onnx"), ("openvino", "net.xml"), ("torch", "net.pt2")):
        (folder / kind).mkdir()
        path = folder / kind / name
        write_artifact(net, ArtifactMetadata.from_model(net, kind, "float32"), path)
        shutil.copytree(folder / kind, folder / f"{kind}-card")
        sums = {each.name: file_sha256(each) for each in artifact_files(path)}
        manifest = {"sha256": sums, "precision": "float32", "source": {"net": "x"}}
        (folder / f"{kind}-card" / f"{name}.json").write_text(json.dumps(manifest))


def artifact(root: Path) -> object:
    from resnets.runtime.artifact import is_artifact
    from resnets.runtime.open import open_artifact

    path = next(each for each in sorted(root.iterdir()) if is_artifact(each))
    found = open_artifact(path)
    spec = found.metadata.preprocess
    shape = (1, spec.size, spec.size, spec.channels)
    return found.logits(np.zeros(shape, np.uint8)) if spec.size < 100 else found


def facts(root: Path) -> object:
    """What an artifact says of itself."""
    from resnets.runtime.artifact import ArtifactMetadata

    path = root / "net.onnx"
    return ArtifactMetadata.from_json(path.read_text("utf-8", "replace"), path)


def write_facts(folder: Path) -> None:
    from resnets.runtime.artifact import ArtifactMetadata

    net = small_net(RESIDUAL)
    net.recipe = Recipe(model=net.spec)
    (folder / "facts").mkdir()
    text = ArtifactMetadata.from_model(net, "onnx", "float32").to_json()
    (folder / "facts" / "net.onnx").write_text(text)


FOREIGN: tuple[Way, ...] = (create,)
READERS = (
    Reader("torch", write_torch, FOREIGN, share=70),
    Reader("pickles", write_pickles, FOREIGN, share=40),
    Reader("safetensors", write_safetensors, FOREIGN, share=25),
    Reader("caffemodel", write_caffe, FOREIGN, share=30),
    Reader("keras", write_keras, FOREIGN, share=40),
    Reader("npz weights", write_npz, FOREIGN, share=30),
    Reader("model configs", write_folders, (described,), ("*.json",), share=40),
    Reader("pushed networks", write_pushed, (load,), ("*.json", "*.safetensors"), share=25),
    Reader("checkpoints", write_checkpoints, (checkpoint, loaded, resumed), share=70),
    Reader("artifact metadata", write_facts, (facts,), share=20),
    Reader("artifacts", write_artifacts, (artifact,), share=40, slow=True),
)
