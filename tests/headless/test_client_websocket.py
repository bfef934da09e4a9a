"""The websocket reader, frame by frame."""

import socket
import struct

import pytest
from talking_portrait.headless.websocket import BINARY, TEXT, WebSocket, open_websocket


@pytest.fixture
def connection():
    """A websocket and the other end of its line."""
    here, there = socket.socketpair()
    with here, there:
        yield WebSocket(here), there


def test_puts_fragments_together_and_answers_pings(connection):
    websocket, there = connection
    there.sendall(bytes([0x01, 2]) + b"ab" + bytes([0x89, 1]) + b"!" + bytes([0x80, 1]) + b"c")
    assert websocket.receive(1) == (TEXT, b"abc")
    pong = there.recv(100)
    assert pong[:2] == bytes([0x8A, 0x81])
    assert bytes([pong[6] ^ pong[2]]) == b"!"


def test_keeps_what_came_in_pieces(connection):
    websocket, there = connection
    message = bytes([0x82, 127]) + struct.pack("!Q", 70000) + bytes(70000)
    there.sendall(message[:5])
    assert websocket.receive(0.01) is None
    there.sendall(message[5:])
    assert websocket.receive(1) == (BINARY, bytes(70000))


def test_fragments_keep_their_kind_over_several_waits(connection):
    websocket, there = connection
    there.sendall(bytes([0x02, 1]) + b"a")
    assert websocket.receive(0.01) is None
    there.sendall(bytes([0x80, 1]) + b"b")
    assert websocket.receive(1) == (BINARY, b"ab")


def test_a_wait_ends_although_bytes_trickle_in(connection):
    websocket, there = connection
    there.sendall(bytes([0x82, 126]) + struct.pack("!H", 1000) + b"a")
    assert websocket.receive(0.05) is None
    there.sendall(b"b")
    assert websocket.receive(0.0) is None


class Flood:
    """A connection that always has one more frame that is no whole message."""

    def __init__(self, frame):
        self.frame = frame

    def settimeout(self, seconds):
        pass

    def recv(self, size):
        return self.frame

    def sendall(self, content):
        pass


def test_a_wait_ends_although_pings_never_do():
    assert WebSocket(Flood(bytes([0x89, 0]))).receive(0.02) is None


def test_a_wait_ends_although_empty_pieces_never_do():
    assert WebSocket(Flood(bytes([0, 0])), bytes([1, 0])).receive(0.02) is None


def test_notices_the_end(connection):
    websocket, there = connection
    there.close()
    with pytest.raises(ConnectionError):
        websocket.receive(1)


def test_notices_a_farewell(connection):
    websocket, there = connection
    there.sendall(bytes([0x88, 0]))
    with pytest.raises(ConnectionError, match="closed the websocket"):
        websocket.receive(1)


def test_says_farewell(connection):
    websocket, there = connection
    websocket.close()
    assert there.recv(100)[:2] == bytes([0x88, 0x80])


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (bytes([0x82, 127]) + struct.pack("!Q", 2**40), "a websocket message of"),
        (bytes([0x81, 0x81]) + b"mask!", "bits of no meaning"),
        (bytes([0xC1, 1]) + b"a", "bits of no meaning"),
        (bytes([0x80, 1]) + b"a", "out of order"),
        (bytes([0x01, 1]) + b"a" + bytes([0x81, 1]) + b"b", "out of order"),
        (bytes([0x83, 1]) + b"a", "out of order"),
        (bytes([0x89, 126]) + struct.pack("!H", 200), "control frame"),
        (bytes([0x09, 0]), "control frame"),
    ],
)
def test_broken_frames(connection, sent, why):
    websocket, there = connection
    there.sendall(sent)
    with pytest.raises(ConnectionError, match=why):
        websocket.receive(1)


def test_fragments_may_not_grow_for_ever(connection, monkeypatch):
    monkeypatch.setattr("talking_portrait.headless.websocket.LARGEST_MESSAGE", 3)
    websocket, there = connection
    there.sendall(bytes([0x01, 2]) + b"ab" + bytes([0x00, 2]) + b"cd")
    with pytest.raises(ConnectionError, match="message of 4 bytes"):
        websocket.receive(1)


def test_a_handshake_that_never_comes():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(OSError, match="timed out"),
        open_websocket(f"http://127.0.0.1:{server.getsockname()[1]}/ws", timeout=0.1),
    ):
        pass


def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(OSError, match="refused"), open_websocket(f"http://127.0.0.1:{port}/ws"):
        pass
