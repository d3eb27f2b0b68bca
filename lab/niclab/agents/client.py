"""HTTP over sockets that are made in any way: Unix sockets, ports of other network namespaces, with TLS or without."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from niclab.host.waiting import patient

Dial = Callable[[], socket.socket]


class _Connection(HTTPConnection):
    def __init__(self, *arguments: Any, dial: Dial, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._dial = dial

    def _new_conn(self) -> socket.socket:
        return self._dial()


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class Client:
    """One server, and one connection to it that is kept; a second thread waits for its turn."""

    def __init__(self, dial: Dial, *, timeout: float, headers: Mapping[str, str] | None = None) -> None:
        self._pool = _Pool("localhost", timeout=patient(timeout), headers=headers, maxsize=1, block=True, dial=dial)
        self._used = False
        self.close = self._pool.close

    def ask(
        self, method: str, target: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """The status and the body of an answer. Raises OSError when there is none."""
        # A kept connection may have been closed by the server meanwhile: then it is made again, once.
        retries = urllib3.Retry(int(self._used), redirect=False, status=0, raise_on_status=False, allowed_methods=None)
        try:
            answer = self._pool.urlopen(method, target, body, {**self._pool.headers, **(headers or {})}, retries)
        except HTTPError as error:
            raise OSError(_reason(error)) from None
        self._used = True
        return answer.status, answer.data


def _reason(error: BaseException) -> str:
    """Why there is no answer: in the words of what urllib3 has wrapped."""
    last = error.args[-1] if error.args else None
    below = last if isinstance(last, Exception) else error.__cause__ or error.__context__
    if isinstance(error, HTTPError) and below is not None:
        return _reason(below)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
