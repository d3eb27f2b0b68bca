"""A small client of the Kubernetes API: plain dictionaries, one connection that is kept, any way to reach a server."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from niclab.agents.kube import Object
from niclab.errors import LabError
from niclab.host.waiting import wait_until

MANAGER = "niclab"
"""The field manager of everything the lab applies."""
TIMEOUT = 15.0
"""Seconds until an answer must begin."""
_DISCOVERY = 10.0
"""Seconds until a kind whose definition is new must be served."""
_SHOWN = 300


class Refused(LabError):
    """The API server answered, and not with what was wanted. `status` is HTTP's."""

    def __init__(self, what: str, status: int, why: str) -> None:
        self.status = status
        super().__init__(what, why=why)


@dataclass(frozen=True, slots=True)
class _Kind:
    path: str
    plural: str
    namespaced: bool

    def of(self, namespace: str | None, name: str | None = None) -> str:
        parts = [self.path]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        return "/".join(parts)


def unverified() -> ssl.SSLContext:
    """TLS without checking who the server is: for one that listens where nobody else can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Api:
    """One API server. `dial` makes a TCP connection to it, in whatever network namespace that takes."""

    def __init__(
        self,
        dial: Callable[[], socket.socket],
        *,
        host: str,
        context: ssl.SSLContext,
        token: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._dial = dial
        self._host = host
        self._context = context
        self._timeout = timeout
        self._headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._connection: http.client.HTTPConnection | None = None
        self._turn = threading.Lock()

    def close(self) -> None:
        with self._turn:
            self._forget()

    def get(self, api_version: str, kind: str, name: str, *, namespace: str | None = None) -> Object | None:
        """One object; None when there is none."""
        try:
            return self._request("GET", self._kind(api_version, kind).of(namespace, name))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def objects(self, api_version: str, kind: str, *, namespace: str | None = None, labels: str = "") -> list[Object]:
        """All objects of a kind, of one namespace or (None) of all; `labels` is a selector."""
        query = {"labelSelector": labels} if labels else {}
        found = self._request("GET", self._kind(api_version, kind).of(namespace), query=query)
        return [{"apiVersion": api_version, "kind": kind, **item} for item in found.get("items") or ()]

    def apply(self, wanted: Object) -> Object:
        """Make the object be as given, status included, whether it exists or not; as the server has it then.

        Raises LabError with the server's own words.
        """
        path = self._kind(wanted["apiVersion"], wanted["kind"]).of(_namespace(wanted), wanted["metadata"]["name"])
        body = {key: value for key, value in wanted.items() if key != "status"}
        found: Object = {}
        if body.keys() - {"apiVersion", "kind", "metadata"} or "status" not in wanted:
            found = self._request(
                "PATCH",
                path,
                query={"fieldManager": MANAGER, "force": "true"},
                body=body,
                content="application/apply-patch+yaml",
                about=_about(wanted),
            )
        if "status" in wanted:
            # Not applied but merged: a Node's addresses are declared as a map by type, which two InternalIPs break.
            found = self._request(
                "PATCH",
                f"{path}/status",
                query={"fieldManager": MANAGER},
                body={"status": wanted["status"]},
                content="application/merge-patch+json",
                about=f"the status of {_about(wanted)}",
            )
        return found

    def apply_all(self, objects: Iterable[Object]) -> list[Object]:
        return [self.apply(one) for one in objects]

    def delete(self, api_version: str, kind: str, name: str, *, namespace: str | None = None) -> bool:
        """Delete one object at once; False when there was none."""
        try:
            self._request(
                "DELETE",
                self._kind(api_version, kind).of(namespace, name),
                query={"gracePeriodSeconds": "0", "propagationPolicy": "Background"},
            )
        except Refused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    def text(self, path: str) -> str:
        """What the server answers to GET, e.g. of `/readyz`. Raises Refused, or OSError when there is no answer."""
        with self._turn:
            status, data = self._exchange("GET", path, None, self._headers)
        if status != 200:
            raise Refused(f"{path} answers {status}", status, data.decode(errors="replace"))
        return data.decode(errors="replace")

    def _kind(self, api_version: str, kind: str) -> _Kind:
        found = self._kinds.get((api_version, kind))
        if found is None:
            found = self._discovered(api_version, kind)
            self._kinds[api_version, kind] = found
        return found

    def _discovered(self, api_version: str, kind: str) -> _Kind:
        """A definition is established a moment before its kind is served; so a missing one is asked for again."""
        path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"

        def look() -> _Kind | None:
            try:
                resources = self._request("GET", path).get("resources") or ()
            except Refused as refused:
                if refused.status in (404, 503):
                    return None
                raise
            return next(
                (
                    _Kind(path, one["name"], bool(one["namespaced"]))
                    for one in resources
                    if one["kind"] == kind and "/" not in one["name"]
                ),
                None,
            )

        found = wait_until(look, _DISCOVERY, every=0.05)
        if found is None:
            raise LabError(
                f"the API server does not know {kind} of {api_version}",
                why="no such definition is installed, for instance because no feature asks for it",
                fix="enable the feature that needs it, or correct the kind",
            )
        return found

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content: str = "application/json",
        about: str = "",
    ) -> Object:
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({"Content-Type": content} if data is not None else {})
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            with self._turn:
                status, answer = self._exchange(method, target, data, headers)
        except (OSError, http.client.HTTPException) as error:
            raise LabError(
                f"the API server does not answer {method} {path}", why=str(error) or type(error).__name__
            ) from None
        found = _parsed(answer)
        if not 200 <= status < 300:
            why = found.get("message") or answer[:_SHOWN].decode(errors="replace")
            raise Refused(f"the API server refused {about or f'{method} {path}'} ({status})", status, why)
        return found

    def _exchange(self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """One request and its answer. A kept connection that the server has closed meanwhile is made again, once."""
        kept = self._connection is not None
        try:
            return self._try(method, target, data, headers)
        except (OSError, http.client.HTTPException):
            self._forget()
            if not kept:
                raise
        try:
            return self._try(method, target, data, headers)
        except BaseException:
            self._forget()
            raise

    def _try(self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._connected()
        self._connection.request(method, target, body=data, headers=dict(headers))
        response = self._connection.getresponse()
        return response.status, response.read()

    def _connected(self) -> http.client.HTTPConnection:
        raw = self._dial()
        try:
            raw.settimeout(self._timeout)
            wrapped = self._context.wrap_socket(raw, server_hostname=self._host)
        except BaseException:
            raw.close()
            raise
        connection = http.client.HTTPConnection(self._host, timeout=self._timeout)
        connection.sock = wrapped
        # A connection that lost its socket must not make one of its own, in the wrong namespace.
        connection.auto_open = 0
        return connection

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _parsed(answer: bytes) -> Object:
    try:
        found: Any = json.loads(answer)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _namespace(wanted: Object) -> str | None:
    found: str | None = wanted["metadata"].get("namespace")
    return found


def _about(wanted: Object) -> str:
    return f"{wanted['kind']} {wanted['metadata']['name']!r}"
