"""Signal handlers still work after OpenVINO models have been released."""

import subprocess
import sys

import pytest
from paths import HELPERS

pytest.importorskip("openvino")
pytest.importorskip("nncf")

OPEN_AND_LET_GO = """
import gc, signal, sys
from pathlib import Path
import numpy as np
from small_models import RESIDUAL, small_net
from resnets.runtime.artifact import ArtifactMetadata
from resnets.runtime.open import open_artifact
from resnets.export.write.classifier import write_artifact

folder, net = Path(sys.argv[1]), small_net(RESIDUAL)
images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
engines = []
for precision in ("int8", "float32"):
    path = folder / f"{precision}.xml"
    write_artifact(net, ArtifactMetadata.from_model(net, "openvino", precision), path, images)
    engines.append(open_artifact(path))
    engines[-1].logits(images)
while engines:  # the older one first, as where a server loads a model anew
    engines.pop(0)
    gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.ci
def test_sigterm_is_handled_after_models_were_released(tmp_path):
    words = [sys.executable, "-c", OPEN_AND_LET_GO, str(tmp_path)]
    done = subprocess.run(
        words, cwd=HELPERS, capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("handled\n")
