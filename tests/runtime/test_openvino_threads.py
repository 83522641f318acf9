"""Two threads may use OpenVINO for the first time concurrently."""

import subprocess
import sys

import pytest

pytest.importorskip("openvino")

MEET = """
import threading
import numpy as np, openvino as ov, openvino.opset13 as op
from resnets.runtime.openvino import shared_core

x = op.parameter([1, 3, 64, 64], np.float32, name="x")
model = ov.Model([op.relu(x)], [x], "net")
compiled = shared_core().compile_model(model, "CPU", {"NUM_STREAMS": 2})
together = threading.Barrier(2)

def work():
    request, images = compiled.create_infer_request(), np.zeros((1, 3, 64, 64), np.float32)
    together.wait()
    request.infer({0: images})
    request.get_output_tensor(0).data.sum()

threads = [threading.Thread(target=work) for _ in range(2)]
for each in threads: each.start()
for each in threads: each.join()
print("both computed")
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_threads_that_read_their_first_tensor_together_do_not_hang():
    # One in four fresh processes hung here before the core touched a tensor by itself.
    for _ in range(16):
        done = subprocess.run(
            [sys.executable, "-c", MEET], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout.strip() == "both computed", done.stderr
