"""`niclab up`, `down`, `ls`, `inspect`, `exec` and `sweep`: labs that stand after the command has ended."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys

from lab import process, room
from lab.cli import PASS, request
from lab.errors import LabError
from lab.lab import Lab
from lab.substrate import namespace, ownership
from lab.substrate.ownership import NAMED, Owned


def up(options: argparse.Namespace) -> int:
    topology = request.topology(options)
    settings, warnings = request.settings(options, topology)
    swept = ownership.sweep()
    if swept.labs:
        print(f"swept after killed labs: {', '.join(swept.labs)}", file=sys.stderr)
    with Lab.deploy(
        topology, settings, datapath=options.datapath, cilium_version=options.cilium_version, lab_id=options.id
    ) as lab:
        lab.keep()
        print(f"{lab.id} is up: {lab.title}")
        for node, said in lab.said.items():
            print(f"  {node}: {said}")
        for role, name in lab.namespaces.items():
            print(f"  {_prefix()}ip netns exec {name} …" + ("   # every cable's outer end" if role == "fabric" else ""))
        print(f"  niclab down {lab.id}")
    for line in (*warnings, *(f"not modelled: {key}" for key in lab.unmodelled)):
        print(f"warning: {line}", file=sys.stderr)
    return PASS


def _prefix() -> str:
    """What to put before `ip netns exec` when the labs stand in a room of this user's."""
    held = room.find_holder()
    return shlex.join(room.enter_command(held, [])) + " " if held and os.environ.get("NICLAB_ROOM") else ""


def _chosen(lab_id: str | None) -> Owned:
    labs = ownership.labs()
    if lab_id is not None:
        found = [lab for lab in labs if lab.id == lab_id]
        if not found:
            names = ", ".join(lab.id for lab in labs) or "none"
            raise LabError(f"there is no lab {lab_id!r}", why=f"labs of this machine: {names}", mend="niclab ls")
        return found[0]
    standing = [lab for lab in labs if lab.kept]
    if not standing:
        raise LabError("no lab is up", mend="niclab up two-nic")
    if len(standing) > 1:
        names = ", ".join(lab.id for lab in standing)
        raise LabError("several labs are up", why=names, mend="say which one")
    return standing[0]


def down(options: argparse.Namespace) -> int:
    chosen = _chosen(options.id)
    ownership.remove(chosen.id)
    print(f"{chosen.id} is down")
    _end_empty_room()
    return PASS


def _end_empty_room() -> None:
    """Without root the labs stand in a room that a process of this user's holds open: not longer than they need it."""
    if not ownership.labs() and os.environ.get("NICLAB_ROOM") and room.find_holder():
        room.end_holder()


def ls(options: argparse.Namespace) -> int:
    labs = ownership.labs()
    if options.output == "json":
        rows = [{"id": lab.id, "alive": lab.alive, "kept": lab.kept, **_summary(lab)} for lab in labs]
        print(json.dumps(rows, indent=2))
    for lab in labs if options.output == "text" else []:
        state = "in use" if lab.alive else "up" if lab.kept else "killed (niclab sweep)"
        summary = _summary(lab)
        print(f"{lab.id}  {state}  {summary.get('topology', '?')}  Cilium {summary.get('cilium_version', '?')}")
    _end_empty_room()
    return PASS


def _summary(lab: Owned) -> dict[str, str]:
    about = lab.about
    if not about:
        return {}
    return {
        "topology": about["topology"]["name"],
        "datapath": about["datapath"],
        "cilium_version": about["cilium_version"],
    }


def _namespace(lab: Owned, host: str) -> str:
    names = lab.namespaces()
    if host not in names:
        raise LabError(f"lab {lab.id} has no host {host!r}", why=f"it has {', '.join(names)}", mend="name one of them")
    return names[host]


def inspect(options: argparse.Namespace) -> int:
    lab = _chosen(options.id)
    about = lab.about
    if options.host is None:
        print(f"{lab.id}: {about['topology']['name']}, built-in model of Cilium {about['cilium_version']}")
        for key, value in about["settings"].items():
            print(f"  {key}={value}")
        for node, said in about["nodes"].items():
            print(f"{node}: {said}")
        return PASS
    name = _namespace(lab, options.host)
    for said in about["nodes"].get(options.host, "").splitlines():
        print(f"# said (built-in model of Cilium {about['cilium_version']}): {said}")
    commands = [
        ["ip", "-br", "address"],
        ["ip", "rule"],
        ["ip", "route", "show", "table", "all", "type", "unicast"],
        ["ip", "-6", "route", "show", "table", "all", "type", "unicast"],
        ["nft", "list", "ruleset"],
    ]
    for command in commands:
        line = ["ip", "netns", "exec", name, *command]
        print(f"\n$ {_prefix()}{shlex.join(line)}")
        print(process.run(line).rstrip())
    return PASS


def execute(options: argparse.Namespace) -> int:
    """Replace this process by the command, in the host's network namespace."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise LabError("no command is given", mend=f"niclab exec {options.host} -- ip route")
    path = NAMED / _namespace(_chosen(options.id), options.host)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    namespace.set_network(handle)
    try:
        os.execvpe(command[0], command, process.environment())
    except FileNotFoundError:
        raise LabError(f"the program {command[0]!r} is not installed") from None


def sweep(options: argparse.Namespace) -> int:
    swept = ownership.sweep(kept=options.all)
    print(f"swept: {', '.join(swept.labs) or 'nothing to sweep'}")
    for name in swept.foreign:
        print(f"left alone: {name} is not what the lab made", file=sys.stderr)
    _end_empty_room()
    return PASS
