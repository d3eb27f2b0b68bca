"""kube-apiserver in the control namespace: no kubelet, no controllers, everyone with the token may do everything."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from niclab.agents.controlplane import etcd, program, relay
from niclab.agents.kubeapi import TIMEOUT, Api, Refused, unverified
from niclab.errors import LabError
from niclab.host import daemons
from niclab.host.daemons import Daemon
from niclab.host.ledgers import Ledger
from niclab.host.netns import Namespace
from niclab.net.route import Family

PORT = 6443
SERVICE_CIDRS: dict[Family, str] = {4: "10.96.0.0/16", 6: "fd00:10:96::/112"}
# The hook sleeps for a second before it looks; nothing in a lab has a priority class.
_READY = "/readyz?exclude=poststarthook/scheduling/bootstrap-system-priority-classes"
_KUBECONFIG = "kubeconfig"
_TOKEN = "token"
_GLANCE = 2.0
"""Seconds for one look at whether it is ready."""


def start(
    ledger: Ledger, control: Namespace, directory: Path, *, server: Path, families: Sequence[Family], log: Path
) -> Daemon:
    """Start the API server with its files below `directory`; it is not ready yet. Raises LabError."""
    token = secrets.token_hex(16)
    shared, private = shared_of(directory), directory / "apiserver"
    for path in (shared, private):
        path.mkdir(mode=0o700, exist_ok=True)
    _write(private / _TOKEN, token)
    _write(private / "tokens.csv", f'{token},niclab,niclab,"system:masters"\n')
    _write(private / "account.key", _signing_key())
    _write(shared / _KUBECONFIG, kubeconfig(token))
    key = private / "account.key"
    arguments = [
        str(server),
        f"--etcd-servers=http://{relay.LOOPBACK}:{etcd.PORT}",
        f"--bind-address={relay.LOOPBACK}",
        f"--advertise-address={relay.LOOPBACK}",
        f"--secure-port={PORT}",
        f"--cert-dir={private}",
        f"--token-auth-file={private / 'tokens.csv'}",
        "--authorization-mode=AlwaysAllow",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://niclab.invalid",
        f"--service-cluster-ip-range={','.join(SERVICE_CIDRS[family] for family in families)}",
        # Pods have no service account here, and this plugin would refuse them.
        "--disable-admission-plugins=ServiceAccount",
        # It would write its own loopback address as the backend of the service `kubernetes`.
        "--endpoint-reconciler-type=none",
        "--profiling=false",
    ]
    return daemons.start(ledger, "kube-apiserver", arguments, log=log, netns=control.fd, outright=True)


def wait(daemon: Daemon, control: Namespace, directory: Path, *, deadline: float) -> None:
    """Return when the API server is ready: after 1 to 2 s. Raises LabError."""
    with contextlib.closing(connect(control, directory, timeout=_GLANCE)) as api:
        program.until_ready(daemon, lambda: _missing(api), deadline=deadline)


def _missing(api: Api) -> str:
    """What /readyz lacks, in words; nothing when all is ready."""
    try:
        answer = api.text(_READY)
    except Refused as refused:
        failing = [line for line in refused.why.splitlines() if line.startswith("[-]")]
        return f"/readyz answers {refused.status}{f', {failing[0]}' if failing else ''}"
    except (OSError, http.client.HTTPException) as error:
        return f"/readyz gives no answer ({str(error) or type(error).__name__})"
    return "" if answer.strip() == "ok" else f"/readyz answers {answer[:80]!r}"


def connect(control: Namespace, directory: Path, *, timeout: float = TIMEOUT) -> Api:
    """A client of the lab's API server; it connects when it is first asked something. Raises LabError."""
    try:
        token = (directory / "apiserver" / _TOKEN).read_text()
    except OSError as error:
        raise LabError(
            f"the control plane of the lab in {directory.parent} is gone", why=error.strerror or str(error)
        ) from None
    # Who else could answer? The namespace is the lab's own.
    return Api(
        lambda: relay.dial(control, PORT, timeout),
        host=relay.LOOPBACK,
        context=unverified(),
        token=token,
        timeout=timeout,
    )


def shared_of(directory: Path) -> Path:
    """What agents and the operator see of the control plane's files."""
    return directory / "shared"


def kubeconfig_of(directory: Path) -> Path:
    return shared_of(directory) / _KUBECONFIG


def kubeconfig(token: str) -> str:
    """A kubeconfig for the agents and the operator; JSON, which every reader of YAML reads."""
    cluster = {"server": f"https://{relay.LOOPBACK}:{PORT}", "insecure-skip-tls-verify": True}
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "niclab", "cluster": cluster}],
        "users": [{"name": "niclab", "user": {"token": token}}],
        "contexts": [{"name": "niclab", "context": {"cluster": "niclab", "user": "niclab"}}],
        "current-context": "niclab",
    }
    return json.dumps(found, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)


def _signing_key() -> str:
    """A new key for service account tokens: P-256, as RFC 5915 writes it, the public half left to the reader."""
    # Any 256-bit number below the curve's order will do; the order begins with 32 one bits, so clear the first.
    secret = bytes([secrets.randbelow(128)]) + secrets.token_bytes(31)
    prime256v1 = bytes.fromhex("06082a8648ce3d030107")
    body = b"\x02\x01\x01" + b"\x04\x20" + secret + b"\xa0" + bytes([len(prime256v1)]) + prime256v1
    text = base64.encodebytes(b"\x30" + bytes([len(body)]) + body).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"
