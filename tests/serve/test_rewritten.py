"""Checkpoints that are rewritten in place while they are read, for example by a reload."""

import subprocess
import sys
import threading
from pathlib import Path

import torch
from serving import save_classifier

from resnets.weights.checkpoint.format import CheckpointError, read_checkpoint

READ_WHILE_IT_IS_CUT = """
import sys
from pathlib import Path
from resnets.weights.checkpoint.format import read_checkpoint
path = Path(sys.argv[1])
tensors = read_checkpoint(path).tensors
path.write_bytes(b"cut")  # in place: the file that was read is this one
print(sum(float(each.double().sum()) for each in tensors.values()))
"""


def test_tensors_survive_that_their_file_is_cut(tmp_path: Path):
    path = Path(save_classifier(tmp_path / "net.safetensors"))
    expected = sum(float(each.double().sum()) for each in read_checkpoint(path).tensors.values())
    command = [sys.executable, "-c", READ_WHILE_IT_IS_CUT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert float(done.stdout) == expected


def test_reading_while_it_is_rewritten_is_whole_or_refused(tmp_path: Path):
    path = Path(save_classifier(tmp_path / "net.safetensors"))
    contents = [path.read_bytes()]
    contents.append(Path(save_classifier(tmp_path / "other.safetensors", seed=1)).read_bytes())
    known = [read_checkpoint(path).tensors, read_checkpoint(tmp_path / "other.safetensors").tensors]
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for content in contents:
                path.write_bytes(content)

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for _ in range(100):
            try:
                found = read_checkpoint(path).tensors
            except CheckpointError:
                continue
            assert any(all(torch.equal(found[k], v) for k, v in each.items()) for each in known)
    finally:
        stop.set()
        thread.join()
