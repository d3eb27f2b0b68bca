"""A stand-in for Cilium's programs, for what surrounds them: an agent that behaves as a test wants, and a CNI plugin.

It answers the part of the agent's API that the lab asks, in the shapes that real agents were recorded in
(tests/data/agent), and does not touch a packet. `test_agent.py` holds the contract test against the recordings.
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

VERSION = "1.20.7 0123456789 2026-01-01T00:00:00+00:00 go version go1.26.6 linux/amd64"

_AGENT = """#!{python} -I
import http.server, json, os, socketserver, sys, threading, time

if "--version" in sys.argv:
    print("cilium-agent {version}")
    sys.exit(0)
config = sys.argv[1].partition("=")[2]
def key(name):
    try:
        return open(os.path.join(config, name)).read()
    except OSError:
        return ""
mode, _, argument = key("labels").partition(":")
print('time=2026-01-01T00:00:00Z level=info msg="stand-in starts" mode=' + mode, flush=True)
if mode == "exit":
    words = "unable to run agent: failed to start: " + argument
    print('time=2026-01-01T00:00:00Z level=fatal msg="' + words + '"', flush=True)
    sys.exit(1)
if mode == "hang":
    threading.Event().wait()
if mode == "late":
    threading.Event().wait(float(argument))
devices = key("devices").split(",")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = {{"cilium": {{"state": "Ok"}}, "masquerading": {{"enabled": True, "mode": "BPF"}},
                  "routing": {{"inter-host-routing-mode": "Tunnel", "tunnel-protocol": "vxlan"}},
                  "kube-proxy-replacement": {{"devices": devices, "directRoutingDevice": devices[0]}}}}
        pods = json.load(open("/run/cilium/pods.json")) if os.path.exists("/run/cilium/pods.json") else []
        known = {{"/v1/healthz": status, "/v1/endpoint": [{{"id": 1, "status": {{"state": "ready"}}}}],
                 "/v1/map/cilium_ipcache_v2": {{"cache": [{{"key": pod + "/32"}} for pod in pods]}}}}
        body = json.dumps(known.get(self.path, {{}})).encode()
        if mode == "rubbish":
            body = b"\\x00\\xff{{not json"
        self.send_response(200 if self.path in known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return "unix"
    def log_message(self, *arguments):
        pass

class Shell(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        for index, name in enumerate(("lo", "eth0", "eth1"), 1):
            row = {{"Index": index, "Name": name, "Selected": name in devices, "NotSelectedReason": "stand-in"}}
            self.wfile.write(json.dumps(row, indent=2).encode() + b"\\n")
        self.wfile.write(b"<<end>>\\n")

def serve(name, handler):
    path = "/run/cilium/" + name
    if os.path.exists(path):
        os.unlink(path)
    server = socketserver.ThreadingUnixStreamServer(path, handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
serve("shell.sock", Shell)
serve("cilium.sock", Handler)
if mode == "die":
    while not os.path.exists(argument):
        threading.Event().wait(0.01)
    print('time=2026-01-01T00:00:00Z level=fatal msg="the stand-in dies as told"', flush=True)
    os._exit(7)
threading.Event().wait()
"""

_CNI = """#!{python} -I
import json, os, sys

socket = os.environ["CILIUM_SOCK"]
assert os.path.exists(socket), socket
assert len(os.environ["CNI_CONTAINERID"]) == 64
path = os.path.join(os.path.dirname(socket), "pods.json")
pods = json.load(open(path)) if os.path.exists(path) else []
address = "10.244.%d.%d" % (int(os.uname().nodename[-1]), 100 + len(pods))
json.dump([*pods, address], open(path, "w"))
print(json.dumps({{"cniVersion": "0.3.1", "ips": [{{"version": "4", "address": address + "/32"}}]}}))
"""

_DBG = '#!/bin/sh\necho stand-in "$@"\n'


def make(directory: Path, version: str = "1.20.7", python: str = sys.executable) -> Path:
    """A directory bundle of stand-ins that say they are this version; they are run by this Python."""
    programs = {
        "cilium-agent": _AGENT.format(python=python, version=VERSION.replace("1.20.7", version)),
        "cilium-cni": _CNI.format(python=python),
        "cilium-dbg": _DBG,
    }
    for name, text in programs.items():
        path = directory / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (directory / "bpf").mkdir()
    (directory / "bpf" / "bpf_lxc.c").write_text("/* a stand-in */\n")
    return directory


def recorded(name: str) -> str:
    """What a real agent was recorded to say."""
    return (Path(__file__).parents[1] / "data" / "agent" / name).read_text()


def recorded_status(version: str) -> dict[str, object]:
    status: dict[str, object] = json.loads(recorded(f"status-{version}.json"))
    return status
