"""The client of the Kubernetes API against a server that answers as told: what it asks, what it makes of answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from niclab.agents import kube
from niclab.agents.kubeapi import Api, Refused
from niclab.errors import LabError

CORE = {
    "resources": [
        {"name": "pods/status", "kind": "Pod", "namespaced": True},
        {"name": "pods", "kind": "Pod", "namespaced": True},
        {"name": "nodes", "kind": "Node", "namespaced": False},
    ]
}


class Server:
    """Answers what `answers` says for "METHOD path"; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[str, tuple[int, Any]] = {"GET /api/v1": (200, CORE)}
        self.once: dict[str, tuple[int, Any]] = {}
        self.closing = False
        self.connections = 0

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                data = self.rfile.read(length)
                server.asked.append((f"{self.command} {self.path}", self.headers.get("Content-Type") or "", data))
                key = f"{self.command} {self.path.partition('?')[0]}"
                answers = server.once if key in server.once else server.answers
                status, reported = answers.get(key, (404, {"message": "not found"}))
                server.once.pop(key, None)
                body = reported if isinstance(reported, bytes) else json.dumps(reported).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                # Without saying so: as a server that is restarted.
                self.close_connection = server.closing

            do_GET = do_PATCH = do_DELETE = _answer

            def log_message(self, format: str, *args: Any) -> None:
                """Be quiet."""

        return Handler


@contextmanager
def serving() -> Iterator[tuple[Server, Api]]:
    server = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), server.handler())
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    port = http.server_address[1]
    api = Api(lambda: socket.create_connection(("127.0.0.1", port), 5), token="secret", timeout=5)
    try:
        yield server, api
    finally:
        api.close()
        http.shutdown()
        thread.join()
        http.server_close()


def test_apply_sends_the_object_then_its_status() -> None:
    with serving() as (server, api):
        server.answers["PATCH /api/v1/nodes/node1"] = (201, {"kind": "Node"})
        server.answers["PATCH /api/v1/nodes/node1/status"] = (200, {"kind": "Node", "status": {}})
        wanted = kube.node("node1", addresses=[])
        assert api.apply(wanted) == {"kind": "Node", "status": {}}
    (_, object_, status) = server.asked
    assert object_[:2] == ("PATCH /api/v1/nodes/node1?fieldManager=niclab&force=true", "application/apply-patch+yaml")
    assert json.loads(object_[2]) == {key: value for key, value in wanted.items() if key != "status"}
    assert status[:2] == ("PATCH /api/v1/nodes/node1/status?fieldManager=niclab", "application/merge-patch+json")
    assert json.loads(status[2]) == {"status": wanted["status"]}


def test_a_status_alone_does_not_touch_the_object() -> None:
    with serving() as (server, api):
        server.answers["PATCH /api/v1/namespaces/default/pods/pod1/status"] = (200, {})
        api.apply(kube.pod_running("pod1", []))
        assert [line.partition("?")[0] for line, _, _ in server.asked] == [
            "GET /api/v1",
            "PATCH /api/v1/namespaces/default/pods/pod1/status",
        ]


def test_one_connection_for_everything() -> None:
    with serving() as (server, api):
        server.answers["GET /api/v1/pods"] = (200, {"items": [{"metadata": {"name": "pod1"}}, {}]})
        answers = [api.objects("v1", "Pod") for _ in range(3)]
        assert answers[2][0] == {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod1"}}
        assert server.asked[-1][0] == "GET /api/v1/pods"
        assert server.connections == 1


def test_a_server_that_was_restarted_is_connected_to_again() -> None:
    with serving() as (server, api):
        server.closing = True
        server.answers["GET /readyz"] = (200, b"ok")
        assert [api.text("/readyz") for _ in range(3)] == ["ok"] * 3
        assert server.connections == 3


def test_missing_objects_are_none_and_false() -> None:
    with serving() as (_, api):
        assert api.get("v1", "Pod", "none", namespace="default") is None
        assert api.delete("v1", "Pod", "none", namespace="default") is False


def test_a_refusal_has_the_servers_words() -> None:
    with serving() as (server, api):
        server.answers["PATCH /api/v1/nodes/node1"] = (422, {"message": "node1 is\ninvalid"})
        with pytest.raises(Refused, match=r"refused Node 'node1' \(422\)") as caught:
            api.apply(kube.node("node1", addresses=[]))
        assert caught.value.why == "node1 is\ninvalid"


def test_rubbish_is_a_refusal_too() -> None:
    with serving() as (server, api):
        server.answers["GET /api/v1/nodes/node1"] = (500, b"\xff\xfe rubbish")
        with pytest.raises(Refused, match="rubbish"):
            api.get("v1", "Node", "node1")


def test_a_new_kind_is_waited_for() -> None:
    with serving() as (server, api):
        path = "GET /apis/cilium.io/v2"
        server.once[path] = (404, {"message": "not yet"})
        server.answers[path] = (
            200,
            {"resources": [{"name": "ciliumnodes", "kind": "CiliumNode", "namespaced": False}]},
        )
        server.answers["GET /apis/cilium.io/v2/ciliumnodes"] = (200, {"items": None})
        assert api.objects("cilium.io/v2", "CiliumNode") == []


def test_an_unknown_kind_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("niclab.agents.kubeapi._DISCOVERY", 0.1)
    with serving() as (_, api), pytest.raises(LabError, match="does not know Nonsense of v1"):
        api.objects("v1", "Nonsense")


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    api = Api(lambda: socket.create_connection(("127.0.0.1", port), 1))
    with pytest.raises(LabError, match="does not answer GET /api/v1"):
        api.get("v1", "Pod", "x", namespace="default")
