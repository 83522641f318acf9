"""Hostile request bodies, and error responses that must reach the client."""

import asyncio
import base64
import gzip
import hmac
import json
import lzma
import random
import select
import socket
import struct
import threading
import time
import zlib
from contextlib import suppress

import pytest
from image_bombs import avif
from python_multipart.multipart import MultipartParser
from serve_pressure import BODIES, head
from serving import Running, encoded_image, running, save_classifier

from resnets.data.decode.open_image import CLIENT_FORMATS
from resnets.serve.http.body import parse_body
from resnets.serve.http.connection import LingeringTransport
from resnets.serve.http.limits import Limits, RequestError
from resnets.serve.http.parse_body import CHUNK_SIZE, parse_multipart

FORM = "multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_classifier(tmp_path_factory.mktemp("nets") / "net.safetensors")


@pytest.fixture(scope="module")
def served(net: str):
    with running(f"net={net}") as found:
        yield found


VALID = ("base64", "line ends", "escapes", "spaces in base64")  # only large


@pytest.mark.parametrize("name", BODIES)
def test_hostile_bodies_do_not_block_the_event_loop(name: str):
    kind, make = BODIES[name]
    body = make(4 << 20)
    start = time.process_time()
    try:
        parse_body(body, kind, Limits())
        status = 200
    except RequestError as error:
        status = error.status
    assert time.process_time() - start < 1
    assert status in (400, 413) or name in VALID


def escaped(text: str, every: int) -> str:
    """As encoders for HTML and MIME write it."""
    text = "\\n".join(text[at : at + every] for at in range(0, len(text), every))
    return text.replace("/", "\\/").replace("+", "\\u002B").replace("=", "\\u003d")


@pytest.mark.parametrize("size", [1, 3_000, CHUNK_SIZE - 1, CHUNK_SIZE, 2 * CHUNK_SIZE + 1])
def test_json_is_read_as_json_reads_it(size: int):
    images = [random.Random(n).randbytes(size + n) for n in range(3)]
    texts = [base64.b64encode(each).decode() for each in images]
    plain = json.dumps({"images": texts}, indent=4)
    odd = '\ufeff{"images" : ["' + '","'.join(escaped(text, 76) for text in texts) + '"]}'
    assert json.loads(odd.encode())["images"][0].replace("\n", "") == texts[0]
    for body in (plain, odd):
        assert parse_body(body.encode(), "application/json", Limits()).images == images
    single = json.dumps({"image": f"data:image/png;base64,{texts[0]}"}).encode()
    assert parse_body(single, "application/json", Limits()).images == images[:1]


@pytest.mark.parametrize(
    "body",
    [
        b'{"images": ["aaaa"], "images": ["aaaa"]}',
        b'{"images": ["aa==aaaa"]}',
        b'{"images": ["aaa"]}',
        b'{"images": ["a\\"a"]}',
        b'{"images": [0]}',
        b'{"images": ["aaaa" "aaaa"]}',
        b'{"images": {"0": "aaaa"}}',
        b'{"images": ["aaaa"',
        b'"images"',
        b'{"image": "data:,aaaa"}',
        b'{"image": "' + b"A" * CHUNK_SIZE + b"=" + b"A" * CHUNK_SIZE + b'"}',
    ],
)
def test_json_that_is_rejected(body: bytes):
    with pytest.raises(RequestError) as caught:
        parse_body(body, "application/json", Limits())
    assert caught.value.status == 400


def reference(body: bytes, boundary: bytes) -> list[bytes]:
    """The parts as the library reads them, byte by byte."""
    found: list[bytearray] = []
    calls = {
        "on_part_begin": lambda: found.append(bytearray()),
        "on_part_data": lambda data, start, end: found[-1].extend(data[start:end]),
    }
    parser = MultipartParser(boundary, calls)
    parser.write(body)
    parser.finalize()
    return [bytes(each) for each in found]


def test_multipart_is_read_as_the_library_reads_it():
    chance = random.Random(0)
    pieces = (b"\r\n", b"--", b"b", b"\r", b"\n", b"-", b"\0", b"--a", b"x" * 99)
    for _ in range(300):
        contents = [
            b"".join(chance.choices(pieces, k=chance.randrange(9)))
            for _ in range(chance.randrange(1, 9))
        ]
        contents = [each for each in contents if b"\r\n--b" not in b"\r\n" + each + b"\r\n"]
        heads = (b"\r\n", b"\r\nContent-Type: image/png\r\n", b"\r\na: b\r\nc: d\r\n")
        body = b"".join(b"--b" + chance.choice(heads) + b"\r\n" + c + b"\r\n" for c in contents)
        body += b"--b--\r\n" + chance.choice((b"", b"an epilogue\r\n--b\r\n"))
        assert parse_multipart(body, b"b", 64).images == contents
        assert reference(body.partition(b"--b--\r\n")[0] + b"--b--\r\n", b"b") == contents
    large = [bytes(3 * CHUNK_SIZE), encoded_image(), bytes(CHUNK_SIZE - 7)]
    body = b"".join(b"--b\r\nx: y\r\n\r\n" + each + b"\r\n" for each in large) + b"--b--"
    assert parse_multipart(b"a preamble\r\n" + body, b"b", 3).images == large
    with pytest.raises(RequestError):
        parse_multipart(body, b"b", 2)


def test_parts_in_base64_are_decoded_and_other_encodings_refused():
    image, head = encoded_image(), b"--b\r\nContent-Transfer-Encoding: "
    text = base64.encodebytes(image).replace(b"\n", b"\r\n")
    body = head + b"BASE64\r\n\r\n" + text + b"\r\n" + head + b"binary\r\n\r\n" + image
    assert parse_multipart(body + b"\r\n--b--", b"b", 2).images == [image, image]
    for encoding, content in ((b"quoted-printable", image), (b"base64", b"*")):
        with pytest.raises(RequestError):
            parse_multipart(head + encoding + b"\r\n\r\n" + content + b"\r\n--b--", b"b", 2)


def exchange(served: Running, message: bytes, slow: float = 0.0) -> bytes:
    """Send all, then read to the end; a reset is an error."""
    answer = b""
    with served.connect() as connection:
        for at in range(0, len(message), 1 << 16):
            connection.sendall(message[at : at + (1 << 16)])
            time.sleep(slow)
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_tiny_chunks_are_rejected(served: Running):
    chunks = head("image/png", "transfer-encoding: chunked") + b"1\r\nx\r\n" * 100_000
    assert exchange(served, chunks).startswith(b"HTTP/1.1 400 ")
    served.until(lambda: served.service.intake.readers == 0)
    body = encoded_image(300, 300, form="BMP")
    small = b"".join(
        b"400\r\n" + body[at : at + 1024] + b"\r\n" for at in range(0, 200 << 10, 1024)
    )
    last = b"%x\r\n" % len(body[200 << 10 :]) + body[200 << 10 :] + b"\r\n0\r\n\r\n"
    good = head("image/png", "transfer-encoding: chunked", "connection: close\r\n") + small + last
    assert exchange(served, good).startswith(b"HTTP/1.1 200 ")


def test_very_many_headers_are_rejected(served: Running):
    message = head("image/png", "content-length: 0", "a: b\r\n" * 30_000)
    with served.connect() as connection:
        with suppress(ConnectionError):
            connection.sendall(message)
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("framing", ["content-length: 3000000", "transfer-encoding: chunked"])
def test_a_refusal_arrives_though_its_body_is_still_sent(net: str, framing: str):
    """With Connection: close the server closes behind the refusal; never by a reset."""
    body = bytes(3_000_000)
    if "chunked" in framing:
        body = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    with running(f"net={net}", readers=0) as served:
        for slow in (0.0, 0.002):
            answer = exchange(
                served, head("image/png", framing, "connection: close\r\n") + body, slow
            )
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: " in answer
        served.until(lambda: not served.server.server_state.connections)


def test_one_connection_too_many_gets_an_error_though_it_sends(net: str):
    with running(f"net={net}", connections=0) as served:
        message = head("image/png", "content-length: 3000000") + bytes(3_000_000)
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: answers.append(exchange(served, message)))
            for _ in range(8)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(answers) == 8
        assert all(each.startswith(b"HTTP/1.1 503 ") for each in answers)
        assert all(b"retry-after: 1" in each for each in answers)


def test_bytes_discarded_after_a_refusal_are_bounded(net: str):
    with running(f"net={net}", readers=0) as served:
        served.connection.allowance = 1 << 20
        start = head("image/png", "content-length: 999999999", "connection: close\r\n")
        with served.connect() as connection:
            connection.sendall(start)
            with pytest.raises(ConnectionError):
                connection.sendall(bytes(100 << 20))
        served.until(lambda: not served.server.server_state.connections)


def test_a_lingering_connection_is_closed(net: str, monkeypatch):
    monkeypatch.setattr("resnets.serve.http.connection.LINGER_SECONDS", 0.1)
    with running(f"net={net}", readers=0) as served, served.connect() as connection:
        connection.sendall(head("image/png", "content-length: 99", "connection: close\r\n"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
        served.until(lambda: not served.server.server_state.connections)


COMPRESSED = {"gzip": gzip.compress, "xz": lzma.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("coding", [*COMPRESSED, "br", "gzip, gzip", "IDENTITY"])
def test_a_compressed_body_is_rejected_unread(served: Running, coding: str):
    """A thousandth of its size on the way: nothing is ever inflated."""
    body = COMPRESSED.get(coding, bytes)(
        bytes(50 << 20) if coding in COMPRESSED else encoded_image()
    )
    headers = {"content-encoding": coding, "content-type": "image/png"}
    answer = served.client.post("/predict", content=body, headers=headers)
    if coding == "IDENTITY":
        assert answer.status_code == 200
    else:
        assert answer.status_code == 415
        assert "content-encoding" in answer.json()["error"]
    if coding in COMPRESSED:  # as an image it is none
        answer = served.client.post("/predict", content=body)
        assert answer.status_code == 422


@pytest.mark.skipif("AVIF" not in CLIENT_FORMATS, reason="this Pillow has no AVIF")
def test_avif_bombs(net: str):
    with running(f"net={net}", pixels=1_000_000) as served:
        headers = {"content-type": "image/avif"}
        large, moving = avif(4000, 1000), avif(640, 480, frames=40)
        assert len(large) < 100_000
        for data, status in (
            (large, 413),
            (moving, 200),  # its first frame
            (avif(64, 64), 200),
            (large[: len(large) // 2], 422),
            (large[:40] + bytes(100_000), 422),
        ):
            answer = served.client.post("/predict", content=data, headers=headers)
            assert answer.status_code in (status, 413 if status == 422 else status), answer.text


def test_the_token_is_compared_in_constant_time(net: str, monkeypatch):
    calls: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: calls.append((a, b)) or real(a, b))
    with running(f"net={net}", token="s3cret") as served:
        for said in ("x", "s", "s3cre", "s3cret2", "x" * 5000, "\xff\xfe", "s3cret"):
            headers = {"authorization": f"Bearer {said}".encode("latin-1")}
            status = served.client.get("/models", headers=headers).status_code
            assert status == (200 if said == "s3cret" else 401), said
    assert len(calls) == 7


def test_a_client_that_closes_its_sending_side_counts_as_gone(served: Running):
    body = encoded_image()
    with served.connect() as connection:
        connection.sendall(head("image/png", f"content-length: {len(body) + 1}") + body)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536) == b""
    served.until(lambda: served.service.intake.readers == 0)
    assert served.service.intake.buffered == 0


def test_a_connection_that_the_client_reset_is_closed_without_an_error():
    async def serve() -> bool:
        client, server = _connected()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
            asyncio.Protocol, server
        )
        transport.pause_reading()  # so that the reset is met by `close`
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        waiting = select.poll()
        waiting.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        waiting.poll(10_000)
        lingering = LingeringTransport(transport, lambda: True, allowance=1000)
        lingering.close()
        return lingering.is_closing() and transport.is_closing()

    assert asyncio.run(serve())


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    return client, server
