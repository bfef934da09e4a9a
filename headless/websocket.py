"""Reading a websocket with the standard library alone (RFC 6455, the client's side, receiving)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FINAL, RESERVED, CODE, MASKED, SIZE = 0x80, 0x70, 0x0F, 0x80, 0x7F
"""Bits of a frame's first two bytes."""
LARGEST_CONTROL = 125
LARGEST_MESSAGE = 64 * 2**20
"""Bytes; previews are far smaller."""
LARGEST_HANDSHAKE = 65536
HANDSHAKE_TIMEOUT = 5.0
"""Seconds in which the server has to agree to a websocket."""
SHORTEST_WAIT = 0.001
"""Seconds; a socket takes 0 as "never wait", which it reports in another way."""


class WebSocket:
    """An open websocket. `receive` gives whole messages and answers pings."""

    def __init__(self, connection: socket.socket, received: bytes = b"") -> None:
        self._connection, self._buffer = connection, bytearray(received)
        self._message = bytearray()
        self._kind: int | None = None

    def receive(self, timeout: float) -> tuple[int, bytes] | None:
        """Return (TEXT or BINARY, payload), or None when nothing whole came within `timeout` seconds.

        Raises ConnectionError when the other side is gone or breaks the protocol.
        """
        deadline = time.monotonic() + timeout
        try:
            while True:
                message = self._frame(deadline)
                if message is not None:
                    return message
                if time.monotonic() > deadline:  # only pings, or pieces without an end
                    return None
        except TimeoutError:
            return None
        except (ConnectionError, ssl.SSLError) as error:
            raise ConnectionError(str(error)) from error

    def close(self) -> None:
        """Say goodbye; a connection that is gone needs none."""
        with contextlib.suppress(OSError):
            self._send(CLOSE, b"")

    def _frame(self, deadline: float) -> tuple[int, bytes] | None:
        """Take one frame; return a message when it is the last of one."""
        size, header = self._header(deadline)
        self._fill(header + size, deadline)
        first = self._buffer[0]
        payload = bytes(self._buffer[header : header + size])
        del self._buffer[: header + size]
        final, code = first & FINAL, first & CODE
        if code >= CLOSE:
            self._control(code, payload)
            return None
        self._expect_order(code)
        if code != CONTINUATION:
            self._kind = code
        self._message += payload
        if not final:
            return None
        message, kind = bytes(self._message), self._kind
        self._message, self._kind = bytearray(), None
        return kind or TEXT, message

    def _control(self, code: int, payload: bytes) -> None:
        if code == CLOSE:
            raise ConnectionError("the server closed the websocket")
        if code == PING:
            self._send(PONG, payload)

    def _expect_order(self, code: int) -> None:
        """Refuse a piece of no message, and a message inside another."""
        if (code == CONTINUATION) != (self._kind is not None) or code > BINARY:
            raise ConnectionError("the server broke the websocket protocol: a frame out of order")

    def _header(self, deadline: float) -> tuple[int, int]:
        """Return (payload size, header size) of the next frame, leaving it in the buffer."""
        self._fill(2, deadline)
        size, header = self._buffer[1] & SIZE, 2
        if self._buffer[0] & RESERVED or self._buffer[1] & MASKED:
            raise ConnectionError("the server broke the websocket protocol: a frame with bits of no meaning")
        if self._buffer[0] & CODE >= CLOSE and (size > LARGEST_CONTROL or not self._buffer[0] & FINAL):
            raise ConnectionError("the server broke the websocket protocol: a control frame in pieces")
        if size == 126:
            self._fill(4, deadline)
            size, header = struct.unpack_from("!H", self._buffer, 2)[0], 4
        elif size == 127:
            self._fill(10, deadline)
            size, header = struct.unpack_from("!Q", self._buffer, 2)[0], 10
        if len(self._message) + size > LARGEST_MESSAGE:
            raise ConnectionError(f"the server sent a websocket message of {len(self._message) + size} bytes")
        return size, header

    def _fill(self, count: int, deadline: float) -> None:
        while len(self._buffer) < count:
            self._connection.settimeout(max(SHORTEST_WAIT, deadline - time.monotonic()))
            received = self._connection.recv(65536)
            if not received:
                raise ConnectionError("the server closed the connection")
            self._buffer += received

    def _send(self, code: int, payload: bytes) -> None:
        """Send a short control frame; what a client sends is masked."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload[:LARGEST_CONTROL]))
        self._connection.sendall(bytes([FINAL | code, MASKED | len(masked)]) + mask + masked)


@contextmanager
def open_websocket(
    url: str, headers: Mapping[str, str] | None = None, timeout: float = HANDSHAKE_TIMEOUT
) -> Iterator[WebSocket]:
    """Give an open websocket inside a `with`. url: http(s) or ws(s). headers: sent with the request.

    Raises OSError when the server cannot be reached or does not speak the protocol.
    """
    parts = urlsplit(url)
    secure = parts.scheme in ("https", "wss")
    port = parts.port or (443 if secure else 80)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(
            socket.create_connection((parts.hostname or "localhost", port), timeout)
        )
        if secure:
            context = ssl.create_default_context()
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname=parts.hostname))
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        request, accept = _request(parts.netloc, target, headers or {})
        connection.sendall(request)
        opened = WebSocket(connection, _agreed(connection, accept, time.monotonic() + timeout))
        stack.callback(opened.close)
        yield opened


def _request(host: str, target: str, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Return the question for a websocket, and the word that a server that understands it answers."""
    key = base64.b64encode(os.urandom(16))
    fields = {
        "Host": host.encode("idna").decode() if not host.isascii() else host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": key.decode(),
        "Sec-WebSocket-Version": "13",
        **headers,
    }
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1"), base64.b64encode(hashlib.sha1(key + ACCEPT_SUFFIX).digest())


def _agreed(connection: socket.socket, accept: bytes, deadline: float) -> bytes:
    """Read the answer to the question for a websocket; return what came after its header."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        connection.settimeout(max(SHORTEST_WAIT, deadline - time.monotonic()))
        received = connection.recv(4096)
        if not received or len(answer) > LARGEST_HANDSHAKE:
            raise ConnectionError("the server did not answer the request for a websocket")
        answer += received
    header, rest = answer.split(b"\r\n\r\n", 1)
    if not re.match(rb"HTTP/1\.1 101\b", header) or accept not in header:
        first = header.split(b"\r\n", 1)[0][:80].decode(errors="replace")
        raise ConnectionError(f"the server refused a websocket: {first}")
    return rest
