"""A .pt2 that asks for code to be run is refused before anything of it runs."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_nets import RESIDUAL, small_net

from resnets.export.write import write
from resnets.runtime.artifact import ArtifactError, ArtifactMetadata
from resnets.runtime.open import open_artifact

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
PROGRAM = "models/model.json"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    net = small_net(RESIDUAL)
    path = tmp_path_factory.mktemp("artifact") / "net.pt2"
    write(net, ArtifactMetadata.of(net, "torch", "float32"), path)
    return path


class Evil:
    """An object that makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def pickled(mark: Path) -> bytes:
    held = io.BytesIO()
    torch.save(({"net.head.weight": Evil(mark)}, {}), held)
    return held.getvalue()


def code(mark: Path) -> str:
    return f"open({str(mark)!r}, 'w')"


def members(artifact: Path) -> dict[str, bytes]:
    """What it holds, by name without the archive's own."""
    with zipfile.ZipFile(artifact) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pack(path: Path, held: dict[str, bytes], root: str = "net/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in held.items():
            archive.writestr(f"{root}{name}", data)
    return path


def everywhere(part, key: str, value: str) -> None:
    """Put `value` in the place of all texts called `key`."""
    for name, inside in part.items() if isinstance(part, dict) else enumerate(part):
        if name == key and inside:
            part[name] = [value] if isinstance(inside, list) else value
        elif isinstance(inside, dict | list):
            everywhere(inside, key, value)


def renamed(key: str, said: Callable[[Path], str]) -> Callable:
    def change(held: dict[str, bytes], mark: Path) -> None:
        program = json.loads(held[PROGRAM])
        everywhere(program, key, said(mark))
        held[PROGRAM] = json.dumps(program).encode()

    return change


def added(name: str) -> Callable:
    return lambda held, mark: held.update({name: pickled(mark)})


def with_pickled_weights(held: dict[str, bytes], mark: Path) -> None:
    name = "data/weights/model_weights_config.json"
    config = json.loads(held[name])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    held[f"data/weights/{entry['path_name']}"] = pickled(mark)
    held[name] = json.dumps(config).encode()


def in_a_size_called_metadata(held: dict[str, bytes], mark: Path) -> None:
    program = json.loads(held[PROGRAM])
    size = {"as_expr": {"expr_str": code(mark), "hint": None}}
    program["graph_module"]["graph"]["sym_int_values"]["metadata"] = size
    held[PROGRAM] = json.dumps(program).encode()


IMPORTED = '[1, {{"type": "builtins.dict", "context": "{}", "children_spec": []}}]'
ATTACKS = {
    "sample": (added("data/sample_inputs/model.pt"), "a pickle that can run code"),
    "weights": (with_pickled_weights, "holds pickled weights"),
    "old-weights": (added("data/weights/model.pt"), "'data/weights/model.pt', which no export"),
    "old-constants": (added("data/constants/model.pt"), "'data/constants/model.pt', which no"),
    "library": (added("data/aotinductor/model/net.so"), "net.so', which no export"),
    "size": (renamed("expr_str", code), "holds code"),
    "hidden": (in_a_size_called_metadata, "holds code"),
    "argument": (renamed("forward_arg_names", lambda mark: f"a={code(mark)}"), "holds code"),
    "function": (renamed("target", lambda _: "torch.os.system"), "holds code .'torch.os.system'"),
    "file": (renamed("target", lambda _: "torch.ops.aten.from_file.default"), "holds code"),
    "module": (renamed("in_spec", lambda _: IMPORTED.format('{\\"__enum__\\": 1}')), "holds code"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_runs_code_is_refused(artifact, tmp_path, attack):
    change, said = ATTACKS[attack]
    held, mark = members(artifact), tmp_path / "it-ran"
    change(held, mark)
    path = pack(tmp_path / "evil.pt2", held)
    with pytest.raises(ArtifactError, match=rf"evil.pt2: holds .*{said}|evil.pt2: {said}"):
        open_artifact(path)
    assert not mark.exists()


def test_the_format_of_older_torch_is_refused(artifact, tmp_path):
    mark, names = tmp_path / "it-ran", ("state_dict.pt", "constants.pt", "example_inputs.pt")
    program = members(artifact)[PROGRAM]
    version = json.loads(program)["schema_version"]
    held = {"version": f"{version['major']}.{version['minor']}".encode()}
    held["serialized_exported_program.json"] = program
    held |= {f"serialized_{name}": pickled(mark) for name in names}
    with pytest.raises(ArtifactError, match=r"evil\.pt2: "):
        open_artifact(pack(tmp_path / "evil.pt2", held, root=""))
    assert not mark.exists()


def test_a_part_that_is_there_twice_is_refused(artifact, tmp_path):
    path = pack(tmp_path / "evil.pt2", members(artifact))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"net/{PROGRAM}", b"{}")
    with pytest.raises(ArtifactError, match="in two ways; not opened"):
        open_artifact(path)


def test_guards_are_not_run(artifact, tmp_path):
    held, mark = members(artifact), tmp_path / "it-ran"
    program = json.loads(held[PROGRAM])
    program["guards_code"] = [f"{code(mark)} is not None"]
    held[PROGRAM] = json.dumps(program).encode()
    found = open_artifact(pack(tmp_path / "guarded.pt2", held)).logits(PICTURES)
    np.testing.assert_array_equal(found, open_artifact(artifact).logits(PICTURES))
    assert not mark.exists()
