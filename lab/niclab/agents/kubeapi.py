"""A small client of the Kubernetes API: plain dictionaries, any way to reach a server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from niclab.agents.client import Client, Dial
from niclab.agents.kube import Object
from niclab.errors import LabError
from niclab.host.waiting import wait_until

TIMEOUT = 15.0
"""Seconds until an answer must begin."""
_MANAGER = {"fieldManager": "niclab"}
"""The field manager of everything the lab applies."""
_DISCOVERY = 10.0
"""Seconds until a kind whose definition is new must be served."""
_APPLIED, _MERGED = "application/apply-patch+yaml", "application/merge-patch+json"
_SHOWN = 300


class Refused(LabError):
    """The API server answered, and not with what was wanted. `status` is HTTP's."""

    def __init__(self, what: str, status: int, why: str) -> None:
        self.status = status
        super().__init__(what, why=why)


class Api:
    """One API server. `dial` makes a connection to it, in whatever network namespace that takes."""

    def __init__(self, dial: Dial, *, token: str | None = None, timeout: float = TIMEOUT) -> None:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._client = Client(dial, timeout=timeout, headers=headers)
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}
        self.close = self._client.close

    def get(self, api_version: str, kind: str, name: str, *, namespace: str | None = None) -> Object | None:
        """One object; None when there is none."""
        return self._if_there("GET", self._path(api_version, kind, namespace, name))

    def objects(self, api_version: str, kind: str) -> list[Object]:
        """All objects of a kind, of every namespace."""
        found = self._request("GET", self._path(api_version, kind))
        return [{"apiVersion": api_version, "kind": kind, **item} for item in found.get("items") or ()]

    def apply(self, wanted: Object) -> Object:
        """Make the object be as given, status included, whether it exists or not; as the server has it then.

        Raises LabError with the server's own words.
        """
        metadata = wanted["metadata"]
        about = f"{wanted['kind']} {metadata['name']!r}"
        path = self._path(wanted["apiVersion"], wanted["kind"], metadata.get("namespace"), metadata["name"])
        body = {key: value for key, value in wanted.items() if key != "status"}
        found: Object = {}
        if body.keys() - {"apiVersion", "kind", "metadata"} or "status" not in wanted:
            query = {**_MANAGER, "force": "true"}
            found = self._request("PATCH", path, query, body=body, content=_APPLIED, what=about)
        if "status" in wanted:
            # Not applied but merged: a Node's addresses are declared as a map by type, which two InternalIPs break.
            status, what = {"status": wanted["status"]}, f"the status of {about}"
            found = self._request("PATCH", f"{path}/status", _MANAGER, body=status, content=_MERGED, what=what)
        return found

    def delete(self, api_version: str, kind: str, name: str, *, namespace: str | None = None) -> bool:
        """Delete one object at once; False when there was none."""
        query = {"gracePeriodSeconds": "0", "propagationPolicy": "Background"}
        return self._if_there("DELETE", self._path(api_version, kind, namespace, name), query) is not None

    def text(self, path: str) -> str:
        """What the server answers to GET, e.g. of `/readyz`. Raises Refused, or OSError when there is no answer."""
        status, data = self._client.ask("GET", path)
        if status != 200:
            raise Refused(f"{path} answers {status}", status, data.decode(errors="replace"))
        return data.decode(errors="replace")

    def _path(self, api_version: str, kind: str, namespace: str | None = None, name: str | None = None) -> str:
        path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        if (api_version, kind) not in self._kinds:
            self._kinds[api_version, kind] = self._discovered(path, api_version, kind)
        plural, namespaced = self._kinds[api_version, kind]
        within = ["namespaces", quote(namespace, safe="")] if namespaced and namespace is not None else []
        return "/".join([path, *within, plural, *([] if name is None else [quote(name, safe="")])])

    def _discovered(self, path: str, api_version: str, kind: str) -> tuple[str, bool]:
        """A kind's plural, and whether its objects are in namespaces. A definition is established a moment before its
        kind is served; so a missing one is asked for again."""

        def look() -> tuple[str, bool] | None:
            try:
                resources = self._request("GET", path).get("resources") or ()
            except Refused as refused:
                if refused.status in (404, 503):
                    return None
                raise
            fitting = (one for one in resources if one["kind"] == kind and "/" not in one["name"])
            return next(((one["name"], bool(one["namespaced"])) for one in fitting), None)

        found = wait_until(look, _DISCOVERY, every=0.05)
        if found is None:
            raise LabError(
                f"the API server does not know {kind} of {api_version}",
                why="no such definition is installed, for instance because no feature asks for it",
                fix="enable the feature that needs it, or correct the kind",
            )
        return found

    def _if_there(self, method: str, path: str, query: Mapping[str, str] | None = None) -> Object | None:
        try:
            return self._request(method, path, query)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        content: str = "application/json",
        what: str = "",
    ) -> Object:
        data = None if body is None else json.dumps(body).encode()
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            status, answer = self._client.ask(method, target, body=data, headers={"Content-Type": content})
        except OSError as error:
            raise LabError(f"the API server does not answer {method} {path}", why=str(error)) from None
        found: Object = {}
        with contextlib.suppress(ValueError):
            if isinstance(parsed := json.loads(answer), dict):
                found = parsed
        if not 200 <= status < 300:
            why = found.get("message") or answer[:_SHOWN].decode(errors="replace")
            raise Refused(f"the API server refused {what or f'{method} {path}'} ({status})", status, why)
        return found
