"""Reading a websocket with the standard library alone (RFC 6455, the client's side, receiving)."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LARGEST_MESSAGE = 64 * 2**20
"""Bytes; previews are far smaller."""


class WebSocket:
    """An open websocket. `receive` gives whole messages and answers pings."""

    def __init__(self, connection: socket.socket, received: bytes = b"") -> None:
        self._connection, self._buffer = connection, received
        self._parts: list[bytes] = []
        self._kind = TEXT

    def receive(self, timeout: float) -> tuple[int, bytes] | None:
        """Return (TEXT or BINARY, payload), or None when nothing whole came within `timeout` seconds.

        Raises ConnectionError when the other side is gone.
        """
        self._connection.settimeout(timeout)
        try:
            while True:
                message = self._frame()
                if message is not None:
                    return message
        except TimeoutError:
            return None

    def _frame(self) -> tuple[int, bytes] | None:
        """Take one frame; return a message when it is the last of one."""
        size, header = self._header()
        self._fill(header + size)
        first = self._buffer[0]
        payload, self._buffer = self._buffer[header : header + size], self._buffer[header + size :]
        final, code = first & 0x80, first & 0x0F
        if code == CLOSE:
            raise ConnectionError("the server closed the websocket")
        if code == PING:
            self._send(PONG, payload)
        if code >= CLOSE:
            return None
        if code != CONTINUATION:
            self._parts, self._kind = [], code
        self._parts.append(payload)
        return (self._kind, b"".join(self._parts)) if final else None

    def _header(self) -> tuple[int, int]:
        """Return (payload size, header size) of the next frame, leaving it in the buffer."""
        self._fill(2)
        size, header = self._buffer[1] & 0x7F, 2
        if size == 126:
            self._fill(4)
            size, header = struct.unpack("!H", self._buffer[2:4])[0], 4
        elif size == 127:
            self._fill(10)
            size, header = struct.unpack("!Q", self._buffer[2:10])[0], 10
        if size > LARGEST_MESSAGE:
            raise ConnectionError(f"the server sent a websocket frame of {size} bytes")
        return size, header

    def _fill(self, count: int) -> None:
        while len(self._buffer) < count:
            received = self._connection.recv(65536)
            if not received:
                raise ConnectionError("the server closed the connection")
            self._buffer += received

    def _send(self, code: int, payload: bytes) -> None:
        """Send a short control frame; what a client sends is masked."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload[:125]))
        self._connection.sendall(bytes([0x80 | code, 0x80 | len(masked)]) + mask + masked)


@contextmanager
def open_websocket(url: str, timeout: float = 5.0) -> Iterator[WebSocket]:
    """Give an open websocket inside a `with`. url: http(s) or ws(s).

    Raises OSError when the server cannot be reached or does not speak the protocol.
    """
    parts = urlsplit(url)
    secure = parts.scheme in ("https", "wss")
    port = parts.port or (443 if secure else 80)
    with socket.create_connection((parts.hostname or "localhost", port), timeout) as plain:
        connection = (
            ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
            if secure
            else plain
        )
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        yield WebSocket(connection, _handshake(connection, parts.netloc, target))


def _handshake(connection: socket.socket, host: str, target: str) -> bytes:
    """Ask for a websocket; return what came after the answer's header."""
    key = base64.b64encode(os.urandom(16))
    request = (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    connection.sendall(request.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        received = connection.recv(4096)
        if not received or len(answer) > 65536:
            raise ConnectionError("the server did not answer the request for a websocket")
        answer += received
    header, rest = answer.split(b"\r\n\r\n", 1)
    accept = base64.b64encode(hashlib.sha1(key + ACCEPT_SUFFIX).digest())
    if b" 101 " not in header.split(b"\r\n", 1)[0] + b" " or accept not in header:
        raise ConnectionError(
            f"the server refused a websocket: {header.splitlines()[0].decode(errors='replace')}"
        )
    return rest
