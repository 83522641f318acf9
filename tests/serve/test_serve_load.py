"""The server under load: batching, shedding, stalled and disconnected clients, reload, shutdown."""

import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import forked
import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from serving import Running, encoded_image, running, save_classifier
from small_models import RESIDUAL, small_net

from resnets.runtime.inference_module import InferenceModule
from resnets.serve.http import connection
from resnets.serve.http.limits import EventLoopLag

RAW = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_classifier(tmp_path_factory.mktemp("nets") / "net.safetensors")


def hold(served: Running) -> threading.Event:
    """Make the first model's compute wait until the event is set."""
    gate, batcher = threading.Event(), served.registry.models[0].batcher
    compute = batcher.compute

    def wait(prepared):
        assert gate.wait(120)
        return compute(prepared)

    batcher.compute = wait
    return gate


def post(served: Running, **more) -> httpx.Response:
    return served.client.post("/predict", content=encoded_image(), headers=RAW, **more)


def test_a_full_queue_rejects_requests_and_answers_accepted_ones(net: str):
    with running(f"net={net}", queue=4) as served:
        gate = hold(served)
        with ThreadPoolExecutor(4) as pool:
            accepted = [pool.submit(post, served) for _ in range(4)]
            served.until(lambda: served.accepted == 4)
            refused = [post(served) for _ in range(5)]
            gate.set()
        assert [each.status_code for each in refused] == [503] * 5
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        assert [each.result().status_code for each in accepted] == [200] * 4
        assert 'resnets_shed_total{model="net"} 5.0' in served.client.get("/metrics").text
        assert post(served).status_code == 200


def test_a_disconnected_client_frees_its_place(net: str):
    with running(f"net={net}", queue=1) as served:
        gate = hold(served)
        body = encoded_image()
        head = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        with served.connect() as connection:
            connection.sendall(head.encode() + body)
            served.until(lambda: served.accepted == 1)
            assert post(served).status_code == 503
        served.until(lambda: served.accepted == 0)
        gate.set()
        assert post(served).status_code == 200


def test_a_stalled_client_frees_its_place(net: str):
    half = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\nabc"
    with running(f"net={net}", readers=1) as served:
        with served.connect() as reading:
            reading.sendall(half)
            served.until(lambda: served.service.intake.readers == 1)
            assert post(served).status_code == 503
        served.until(lambda: served.service.intake.readers == 0)
        intake = served.service.intake
        intake.limits, usual = replace(intake.limits, stall=0.1), intake.limits
        with served.connect() as stalled:
            stalled.sendall(half)
            assert stalled.recv(65536).startswith(b"HTTP/1.1 408 ")
        intake.limits = usual
        served.until(lambda: served.service.intake.readers == 0)
        assert post(served).status_code == 200
        served.connection.idle_timeout = 0.1
        with served.connect() as silent, served.connect() as dripping:
            with suppress(ConnectionResetError, BrokenPipeError):
                dripping.sendall(b"GET / HT")
            assert silent.recv(10) == b""
            with suppress(ConnectionResetError):
                assert dripping.recv(10) == b""


def test_too_many_connections_get_an_error(net: str):
    with running(f"net={net}", connections=2) as served:
        with served.connect(), served.connect(), served.connect() as third:
            assert third.recv(65536).startswith(b"HTTP/1.1 503 ")
        served.until(lambda: not served.server.server_state.connections)
        assert post(served).status_code == 200


def test_fewer_connections_are_held_while_the_event_loop_is_late(net: str, monkeypatch):
    monkeypatch.setattr(connection, "MAX_CONNECTIONS_LAGGING", 1)
    with running(f"net={net}") as served:
        lag = served.connection.lag = EventLoopLag()
        with served.connect(), served.connect() as second:
            served.until(lambda: len(served.server.server_state.connections) == 2)
            lag._worst, lag._timer = 1.0, object()
            with served.connect() as third:
                assert third.recv(65536).startswith(b"HTTP/1.1 503 ")
            lag._timer = None
            second.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert second.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_model_that_fails_is_a_500_and_the_next_one_works(net: str):
    with running(f"net={net}") as served:
        batcher = served.registry.models[0].batcher
        real = batcher.compute
        batcher.compute = lambda items: 1 / 0
        answer = post(served)
        assert answer.status_code == 500
        assert "ZeroDivision" not in answer.text
        batcher.compute = real
        assert post(served).status_code == 200


def test_a_response_that_takes_too_long_is_cancelled(net: str):
    with running(f"net={net}", answer=0.2) as served:
        gate = hold(served)
        assert post(served).status_code == 503
        assert served.accepted == 0
        gate.set()


def test_loading_a_model_does_not_affect_running_requests():
    """In the midst of the load of one net another thread computes another one."""
    busy, loading = InferenceModule(small_net(RESIDUAL)), small_net(RESIDUAL, seed=1)
    images = torch.zeros(1, 28, 28, 3, dtype=torch.uint8)
    answers = []
    with ThreadPoolExecutor(1) as pool:
        loading.stem.register_forward_hook(
            lambda *_: answers.append(pool.submit(busy, images).result(60))
        )
        InferenceModule(loading)
    assert [tuple(each.shape) for each in answers] == [(1, 4)]


def test_reload_exchanges_the_model_and_drops_nothing(tmp_path: Path):
    path = tmp_path / "net.safetensors"
    save_classifier(path)
    with running(f"net={path}", token="t") as served:
        first = post(served).json()
        codes: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                codes.append(post(served).status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        save_classifier(path, seed=7)
        said = served.client.post("/admin/reload").json()["models"]
        second = post(served).json()
        path.write_bytes(b"damaged")
        kept = served.client.post("/admin/reload").json()["models"]
        third = post(served).json()
        stop.set()
        for thread in threads:
            thread.join()
        assert said == {f"net@{first['version']}": f"now net@{second['version']}"}
        assert first["version"] != second["version"] == third["version"]
        assert first["predictions"] != second["predictions"] == third["predictions"]
        assert next(iter(kept.values())).startswith("kept: ")
        assert set(codes) == {200}
        assert len(codes) > 3


def test_the_command_serves_and_sigterm_answers_what_was_accepted(net: str):
    """Each line of its log is JSON, also a warning of the decoders."""
    gray = np.arange(0, 2048, dtype=np.uint16).reshape(32, 64)
    Image.fromarray(gray).save(sixteen_bits := io.BytesIO(), "PNG")
    command = [sys.executable, "-m", "resnets", "serve", f"net={net}", "--port", "0"]
    command += ["--backend", "torch", "--device", "cpu", "--max-delay-ms", "900"]
    process = forked.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        first = next(line for line in process.stderr if '"event": "serving"' in line)
        url = first.split('"url": "')[1].split('"')[0]
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        body = encoded_image()
        for _ in range(600):
            with suppress(httpx.ConnectError):
                assert httpx.get(f"{url}readyz", timeout=60).status_code == 200
                break
            time.sleep(0.05)
        assert httpx.post(f"{url}predict", content=sixteen_bits.getvalue()).status_code == 200
        process.send_signal(signal.SIGHUP)
        lines = [first]
        head = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"
        head += f"connection: close\r\nexpect: 100-continue\r\ncontent-length: {len(body)}\r\n\r\n"
        with ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
                for _ in range(3)
            ]
            for each in clients:  # the server begins to read its body before the signal ...
                each.sendall(head.encode())
                assert each.recv(65536).startswith(b"HTTP/1.1 100 ")
                each.sendall(body[:100])
            process.send_signal(signal.SIGTERM)
            while '"event": "stopping"' not in (line := process.stderr.readline()):
                assert line, lines
                lines.append(line)
            for each in clients:  # ... and gets the rest of it after
                each.sendall(body[100:])
                assert each.recv(65536).startswith(b"HTTP/1.1 200 ")
        lines += process.communicate(timeout=60)[1].splitlines()
        assert process.returncode == 0, lines
        assert "warning" in [json.loads(line)["level"] for line in lines]
    finally:
        process.kill()
