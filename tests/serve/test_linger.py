"""Closing a connection that the client has already reset."""

import asyncio
import select
import socket
import struct

from resnets.serve.http.connection import LingeringTransport


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
