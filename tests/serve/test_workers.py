"""Stuck threads are replaced up to a limit and reported by `/readyz`."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import encoded_image, running, save_classifier

from resnets.data import DataError
from resnets.serve import app
from resnets.serve.timeout_pool import WorkerPool

RAW = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_classifier(tmp_path_factory.mktemp("nets") / "net.safetensors")


def until(ready, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_stuck_thread_is_replaced_up_to_a_bound_and_ends_when_its_job_does():
    gate = threading.Event()
    workers = WorkerPool("test", 2, patience=0.2, spare=1)
    first = [workers.submit(gate.wait, 60) for _ in range(2)]
    assert workers.is_complete
    assert not workers.is_blocked
    until(lambda: workers.stuck == 2)
    assert not workers.is_complete  # one of two is replaced
    assert workers.submit(lambda: 7).result(30) == 7
    assert not workers.is_blocked
    third = workers.submit(gate.wait, 60)
    until(lambda: workers.is_blocked)
    waiting, left = workers.submit(lambda: 8), workers.submit(lambda: 9)
    assert left.cancel()
    gate.set()
    assert [each.result(30) for each in (*first, third)] == [True] * 3
    assert waiting.result(30) == 8
    until(lambda: workers.is_complete)
    threads = [each for each in threading.enumerate() if each.name == "test"]
    assert len(threads) in (2, 3)  # one is over once it has had its turn
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 // 0).result(30)
    workers.shutdown()
    until(lambda: not any(each.is_alive() for each in threads))
    with pytest.raises(RuntimeError):
        workers.submit(print)


def test_readiness_and_answers_while_decoders_are_stuck(net: str, monkeypatch):
    monkeypatch.setattr(app, "SPARE_THREADS", 1)
    monkeypatch.setattr(app, "cores", lambda: 1)
    gate = threading.Event()
    with running(f"net={net}", answer=1.0) as served, ThreadPoolExecutor(2) as pool:
        model = served.registry.models[0].model
        real = model.prepare

        def prepare(data: bytes, name: str):
            if data.endswith(b"stuck"):
                assert gate.wait(60)
                raise DataError("no longer stuck")
            return real(data, name)

        model.prepare = prepare

        def post(more: bytes = b""):
            return served.client.post("/predict", content=encoded_image() + more, headers=RAW)

        assert post().status_code == 200
        assert post(b"stuck").status_code == 503
        served.until(lambda: served.service.decoders.stuck == 1)
        assert served.client.get("/readyz").status_code == 200  # replaced
        assert "resnets_stuck_workers 1.0" in served.client.get("/metrics").text
        assert post().status_code == 200
        assert pool.submit(post, b"stuck").result().status_code == 503
        served.until(lambda: served.service.decoders.stuck == 2)
        refused = served.client.get("/readyz")
        assert refused.status_code == 503
        assert "decode" in refused.json()["error"]
        start = time.monotonic()
        shed = post()
        assert shed.status_code == 503
        assert "retry-after" in shed.headers
        assert time.monotonic() - start < 1  # at once, not after `answer`
        assert served.client.get("/healthz").status_code == 200
        gate.set()
        served.until(lambda: served.client.get("/readyz").status_code == 200)
        assert post().status_code == 200


def test_readiness_while_a_network_is_stuck(net: str):
    gate = threading.Event()
    with running(f"net={net}", answer=1.0) as served:
        batcher = served.registry.models[0].batcher
        compute = batcher.compute
        batcher.compute = lambda items: gate.wait(60) and compute(items)
        send = {"content": encoded_image(), "headers": RAW}
        assert served.client.post("/predict", **send).status_code == 503
        served.until(lambda: served.client.get("/readyz").status_code == 503)
        assert "compute net" in served.client.get("/readyz").json()["error"]
        assert served.client.post("/predict", **send).status_code == 503
        gate.set()
        served.until(lambda: served.client.get("/readyz").status_code == 200)
        assert served.client.post("/predict", **send).status_code == 200


def test_the_end_of_a_server_does_not_wait_for_stuck_threads(net: str):
    gate = threading.Event()
    with running(f"net={net}", answer=0.2) as served:
        served.registry.models[0].model.prepare = lambda data, name: gate.wait(60)
        answer = served.client.post("/predict", content=encoded_image(), headers=RAW)
        assert answer.status_code == 503
        served.until(lambda: served.service.decoders.stuck == 1)
    gate.set()
