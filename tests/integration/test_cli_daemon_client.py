"""The CLI's socket client against a daemon that says what the test tells it to."""

import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import msgspec
import pytest

from inroad.cli.daemon_client import DaemonClient, NoDaemon, is_listening
from inroad.core.errors import ConnectedElsewhere, InroadError, NoManager
from inroad.core.status import ConnectRequest, Failure, Outcome, Progress, Status


class ScriptedDaemon(socketserver.ThreadingUnixStreamServer):
    """Answers each (method, path) with a status and the JSON lines given for it."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.script: dict[str, tuple[int, list[object]]] = {}
        self.received: list[bytes] = []
        super().__init__(self.path, Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedDaemon

    def answer(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        status, lines = self.server.script[f"{self.command} {self.path}"]
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            body = msgspec.json.encode(line) + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = answer

    def log_message(self, *args: object) -> None:
        pass

    def address_string(self) -> str:
        return "cli"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "daemon.sock") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_status_and_quit(daemon: ScriptedDaemon) -> None:
    daemon.script = {
        "GET /v1/status": (200, [Status(connected=True, namespace="shop")]),
        "POST /v1/quit": (200, [Status(connected=True, service=True)]),
    }
    client = DaemonClient(daemon.path)
    assert client.status().namespace == "shop"
    assert client.quit().connected


def test_connect_yields_each_line_and_sends_the_request(daemon: ScriptedDaemon) -> None:
    lines = [
        Progress("credentials", "reading", 1),
        Progress("vif", "making", 2),
        Outcome("connected", Status(), 3),
    ]
    daemon.script = {"POST /v1/connect": (200, lines)}
    request = ConnectRequest(namespace="shop", environment={"HOME": "/home/ü"})
    assert list(DaemonClient(daemon.path).connect(request)) == lines
    assert msgspec.json.decode(daemon.received[0], type=ConnectRequest) == request


def test_a_failure_becomes_the_error_it_was(daemon: ScriptedDaemon) -> None:
    daemon.script = {
        "POST /v1/quit": (
            403,
            [Failure("connected-elsewhere", "the session is ada's", "as ada: inroad quit")],
        )
    }
    with pytest.raises(ConnectedElsewhere) as caught:
        DaemonClient(daemon.path).quit()
    assert str(caught.value) == "the session is ada's. as ada: inroad quit"


def test_a_failure_line_is_handed_on(daemon: ScriptedDaemon) -> None:
    failure = Failure(NoManager.code, "no manager")
    daemon.script = {"POST /v1/connect": (200, [failure])}
    assert list(DaemonClient(daemon.path).connect(ConnectRequest())) == [failure]


def test_a_daemon_that_ends_in_the_middle_is_noticed(daemon: ScriptedDaemon) -> None:
    daemon.script = {"POST /v1/connect": (200, [Progress("vif", "making", 2)])}
    lines = DaemonClient(daemon.path).connect(ConnectRequest())
    assert next(lines) == Progress("vif", "making", 2)
    with pytest.raises(NoDaemon):
        next(lines)


def test_nonsense_is_an_error_that_says_so(daemon: ScriptedDaemon) -> None:
    daemon.script = {"GET /v1/status": (200, ["nonsense"])}
    with pytest.raises(InroadError, match="not understood"):
        DaemonClient(daemon.path).status()


def test_no_daemon(tmp_path: Path, daemon: ScriptedDaemon) -> None:
    absent = str(tmp_path / "absent.sock")
    calls: list[Callable[[], object]] = [
        DaemonClient(absent).status,
        DaemonClient(absent).quit,
        lambda: next(DaemonClient(absent).connect(ConnectRequest())),
    ]
    for call in calls:
        with pytest.raises(NoDaemon):
            call()
    assert not is_listening(absent)
    assert is_listening(daemon.path)
