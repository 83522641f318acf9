"""A .pt2 that would run code is rejected before any of it runs."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import RESIDUAL, small_net

from resnets.export.write.classifier import write_artifact
from resnets.runtime.artifact import ArtifactError, ArtifactMetadata
from resnets.runtime.open import open_artifact

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
PROGRAM = "models/model.json"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    model = small_net(RESIDUAL)
    path = tmp_path_factory.mktemp("artifact") / "net.pt2"
    write_artifact(model, ArtifactMetadata.from_model(model, "torch", "float32"), path)
    return path


class Evil:
    """An object that makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def pickled(mark: Path) -> bytes:
    content = io.BytesIO()
    torch.save(({"net.head.weight": Evil(mark)}, {}), content)
    return content.getvalue()


def code(mark: Path) -> str:
    return f"open({str(mark)!r}, 'w')"


def members(artifact: Path) -> dict[str, bytes]:
    """What it holds, by name without the archive's own."""
    with zipfile.ZipFile(artifact) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pack(path: Path, content: dict[str, bytes], root: str = "net/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"{root}{name}", data)
    return path


def everywhere(tree, key: str, value: str) -> None:
    """Put `value` in the place of all texts called `key`."""
    for name, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if name == key and child:
            tree[name] = [value] if isinstance(child, list) else value
        elif isinstance(child, dict | list):
            everywhere(child, key, value)


def renamed(key: str, output: Callable[[Path], str]) -> Callable:
    def change(content: dict[str, bytes], mark: Path) -> None:
        program = json.loads(content[PROGRAM])
        everywhere(program, key, output(mark))
        content[PROGRAM] = json.dumps(program).encode()

    return change


def added(name: str) -> Callable:
    return lambda content, mark: content.update({name: pickled(mark)})


def with_pickled_weights(content: dict[str, bytes], mark: Path) -> None:
    name = "data/weights/model_weights_config.json"
    config = json.loads(content[name])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    content[f"data/weights/{entry['path_name']}"] = pickled(mark)
    content[name] = json.dumps(config).encode()


def in_a_size_called_metadata(content: dict[str, bytes], mark: Path) -> None:
    program = json.loads(content[PROGRAM])
    size = {"as_expr": {"expr_str": code(mark), "hint": None}}
    program["graph_module"]["graph"]["sym_int_values"]["metadata"] = size
    content[PROGRAM] = json.dumps(program).encode()


IMPORTED = '[1, {{"type": "builtins.dict", "context": "{}", "children_spec": []}}]'
ATTACKS = {
    "sample": (added("data/sample_inputs/model.pt"), "a pickle that can run code"),
    "weights": (with_pickled_weights, "has pickled weights"),
    "old-weights": (added("data/weights/model.pt"), "unexpected member 'data/weights/model.pt'"),
    "old-constants": (
        added("data/constants/model.pt"),
        "unexpected member 'data/constants/model.pt'",
    ),
    "library": (added("data/aotinductor/model/net.so"), "unexpected member .*net.so'"),
    "size": (renamed("expr_str", code), "has code"),
    "hidden": (in_a_size_called_metadata, "has code"),
    "argument": (renamed("forward_arg_names", lambda mark: f"a={code(mark)}"), "has code"),
    "function": (renamed("target", lambda _: "torch.os.system"), "has code .'torch.os.system'"),
    "file": (renamed("target", lambda _: "torch.ops.aten.from_file.default"), "has code"),
    "module": (renamed("in_spec", lambda _: IMPORTED.format('{\\"__enum__\\": 1}')), "has code"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_runs_code_is_rejected(artifact, tmp_path, attack):
    change, output = ATTACKS[attack]
    content, mark = members(artifact), tmp_path / "it-ran"
    change(content, mark)
    path = pack(tmp_path / "evil.pt2", content)
    with pytest.raises(ArtifactError, match=rf"evil.pt2: .*{output}"):
        open_artifact(path)
    assert not mark.exists()


def test_the_format_of_older_torch_is_rejected(artifact, tmp_path):
    mark, names = tmp_path / "it-ran", ("state_dict.pt", "constants.pt", "example_inputs.pt")
    program = members(artifact)[PROGRAM]
    version = json.loads(program)["schema_version"]
    content = {"version": f"{version['major']}.{version['minor']}".encode()}
    content["serialized_exported_program.json"] = program
    content |= {f"serialized_{name}": pickled(mark) for name in names}
    with pytest.raises(ArtifactError, match=r"evil\.pt2: "):
        open_artifact(pack(tmp_path / "evil.pt2", content, root=""))
    assert not mark.exists()


def test_a_part_that_is_there_twice_is_rejected(artifact, tmp_path):
    path = pack(tmp_path / "evil.pt2", members(artifact))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"net/{PROGRAM}", b"{}")
    with pytest.raises(ArtifactError, match="inconsistent list of members"):
        open_artifact(path)


def test_guards_are_not_run(artifact, tmp_path):
    content, mark = members(artifact), tmp_path / "it-ran"
    program = json.loads(content[PROGRAM])
    program["guards_code"] = [f"{code(mark)} is not None"]
    content[PROGRAM] = json.dumps(program).encode()
    found = open_artifact(pack(tmp_path / "guarded.pt2", content)).logits(IMAGES)
    np.testing.assert_array_equal(found, open_artifact(artifact).logits(IMAGES))
    assert not mark.exists()
