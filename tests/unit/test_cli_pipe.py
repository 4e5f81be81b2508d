"""A pipe in a socket's place: `http.client` over a file that can be read and written."""

from __future__ import annotations

import http.client
import io
import socket
import threading

import pytest

from inroad.cli.pipe import PipeSocket

ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\none\n\n\r\n4\r\ntwo\n\r\n0\r\n\r\n"


def pair() -> tuple[PipeSocket, socket.socket]:
    ours, theirs = socket.socketpair()
    return PipeSocket(io.FileIO(ours.detach(), "r+b")), theirs


def test_a_request_and_its_answer_line_by_line() -> None:
    pipe, daemon = pair()
    received = bytearray()

    def serve() -> None:
        while b"{}" not in received:
            received.extend(daemon.recv(65_536))
        for at in range(len(ANSWER)):  # however it is cut
            daemon.sendall(ANSWER[at : at + 1])

    thread = threading.Thread(target=serve)
    thread.start()
    connection = http.client.HTTPConnection("inroad", timeout=5)
    connection.sock = pipe
    connection.request("POST", "/v1/connect", b"{}")
    connection.sock.settimeout(None)
    response = connection.getresponse()
    assert [response.readline(), response.readline(), response.readline()] == [b"one\n", b"\n", b"two\n"]
    assert response.read() == b""
    connection.close()
    thread.join()
    assert received.startswith(b"POST /v1/connect HTTP/1.1\r\n")
    assert daemon.recv(1) == b"", "the pipe is closed with the answer"
    daemon.close()


def test_more_than_a_pipe_holds_is_written_whole() -> None:
    pipe, daemon = pair()
    thread = threading.Thread(target=pipe.sendall, args=(b"x" * (1 << 22),))
    thread.start()
    size = 0
    while size < 1 << 22:
        size += len(daemon.recv(1 << 16))
    thread.join()
    daemon.close()
    with pytest.raises(OSError):
        pipe.sendall(b"more")
    pipe.close()
    pipe.close()
