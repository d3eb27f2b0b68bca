"""`niclab up`, `down`, `ls`, `inspect`, `exec` and `sweep`: labs that stand after the command has ended."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from niclab.cilium.reported import NodeReport
from niclab.cli import COULD_NOT_RUN, PASS
from niclab.cli.request import requested, warn
from niclab.errors import LabError, lab_error
from niclab.host import daemons, ledgers, namespace, process, syscalls, userns
from niclab.host.ledgers import Owned
from niclab.kernel.plan import END, FABRIC
from niclab.lab import Lab
from niclab.report import text
from niclab.settings import formats


def up(options: argparse.Namespace) -> int:
    asked = requested(options)
    swept = ledgers.sweep()
    if swept.labs:
        print(f"swept after killed labs: {', '.join(swept.labs)}", file=sys.stderr)
    with Lab.of(asked, options.id) as lab:
        lab.keep()
        print(f"{lab.id} is up: {lab.title}\n")
        print(*text.reasons(lab.reported), "", sep="\n")
        for role in lab.namespaces:
            print(lab.exec_line(role) + ("   # every cable's outer end" if role == FABRIC else ""))
        print(f"niclab down {lab.id}")
    warn(lab.request, lab.reported)
    return PASS


def _chosen(lab_id: str | None) -> Owned:
    labs = ledgers.labs()
    chosen = [lab for lab in labs if (lab.kept if lab_id is None else lab.id == lab_id)]
    if len(chosen) == 1:
        return chosen[0]
    if lab_id is not None:
        names = ", ".join(lab.id for lab in labs) or "none"
        raise LabError(f"there is no lab {lab_id!r}", why=f"labs of this machine: {names}", fix="niclab ls")
    if not chosen:
        raise LabError("no lab is up", fix="niclab up two-nic")
    raise LabError("several labs are up", why=", ".join(lab.id for lab in chosen), fix="say which one")


def down(options: argparse.Namespace) -> int:
    chosen = _chosen(options.id)
    ledgers.remove(chosen.id)
    print(f"{chosen.id} is down")
    userns.end_if_unused(ledgers.labs)
    return PASS


def ls(options: argparse.Namespace) -> int:
    labs = ledgers.labs()
    if options.output == "json":
        rows = [{"id": lab.id, "alive": lab.alive, "kept": lab.kept, **_summary(lab)} for lab in labs]
        print(json.dumps(rows, indent=2))
    for lab in labs if options.output == "text" else []:
        state = "in use" if lab.alive else "up" if lab.kept else "killed (niclab sweep)"
        summary = _summary(lab)
        print(f"{lab.id}  {state}  {summary.get('topology', '?')}  Cilium {summary.get('cilium_version', '?')}")
    userns.end_if_unused(ledgers.labs)
    return PASS


def _summary(lab: Owned) -> dict[str, str]:
    about = lab.about
    topology = {"topology": about["topology"]["name"]} if about else {}
    return {**topology, **{key: about[key] for key in ("datapath", "cilium_version") if about}}


def _namespace(lab: Owned, host: str) -> str:
    names = lab.namespaces()
    if host not in names:
        raise LabError(f"lab {lab.id} has no host {host!r}", why=f"it has {', '.join(names)}", fix="name one of them")
    return names[host]


def inspect(options: argparse.Namespace) -> int:
    lab = _chosen(options.id)
    about = lab.about
    if not about:
        raise LabError(f"lab {lab.id} was never finished", fix=f"niclab down {lab.id}")
    reported = TypeAdapter(dict[str, NodeReport]).validate_python(about["nodes"])
    print(f"{lab.id}: {about['topology']['name']} · {about['description']}")
    if options.host is None:
        print(
            *(f"  {line}" for line in formats.lines(formats.from_json(about["settings"]))),
            *text.reasons(reported),
            sep="\n",
        )
        return PASS
    name = _namespace(lab, options.host)
    if options.host in reported:
        print(*text.reasons({options.host: reported[options.host]}), sep="\n")
    routes = "route show table all type unicast"
    for command in ("ip -br address", "ip rule", f"ip {routes}", f"ip -6 {routes}", "nft list ruleset"):
        _show(["ip", "netns", "exec", name, *command.split()], userns.entrance())
    view = _view(lab, options.host)
    for command in ("status --verbose", "service list", "bpf lb list") if view else ():
        _show([*view, about["dbg"], *command.split()])
    return PASS


def _show(line: list[str], entrance: Sequence[str] = ()) -> None:
    """A command as it can be pasted, and its output; `entrance` leads into the user namespace of this user's labs."""
    print(f"\n$ {shlex.join([*entrance, *line])}")
    shown = [_ON_CABLE.sub(r"\1", row) for row in process.run(line).rstrip().splitlines() if not _CABLE.match(row)]
    print("\n".join(shown))


_CABLE = re.compile(rf"{END}[0-9]+@")
"""What the lab's NICs stand on, which a machine does not have."""
_ON_CABLE = re.compile(rf"^(\S+)@{END}[0-9]+\b")


def _view(lab: Owned, host: str) -> list[str]:
    """What to put before a command that is to see a node as its real agent does; empty for anything else."""
    holder = lab.processes().get(f"{daemons.SANDBOX}{host}")
    return daemons.entrance(holder.pid) if holder is not None else []


def execute(options: argparse.Namespace) -> int:
    """Replace this process by the command, in the host's network namespace."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise LabError("no command is given", fix=f"niclab exec {options.host} -- ip route")
    if command[0].startswith("-"):
        fix = f"niclab exec [--id LAB] {options.host} -- ip route"
        raise LabError(f"{command[0]} is no command", why="options come before the host", fix=fix)
    lab = _chosen(options.id)
    name = _namespace(lab, options.host)
    environment = process.environment()
    if view := _view(lab, options.host):
        environment["PATH"] = f"{Path(lab.about.get('dbg', '')).parent}:{environment['PATH']}"
        command = [*view, *command]
    else:
        gone, again = f"cannot enter the namespace {name} of lab {lab.id}", f"niclab down {lab.id}, and build it again"
        with lab_error(gone, fix=again):
            syscalls.set_network(os.open(namespace.NAMED / name, os.O_RDONLY | os.O_CLOEXEC))
    with lab_error(f"cannot run {command[0]!r}"):
        try:
            os.execvpe(command[0], command, environment)
        except FileNotFoundError:
            raise LabError(f"the program {command[0]!r} is not installed") from None


def sweep(options: argparse.Namespace) -> int:
    swept = ledgers.sweep(kept=options.all)
    print(f"swept: {', '.join(swept.labs) or ('nothing' if swept.stuck else 'nothing to sweep')}")
    for name in swept.foreign:
        print(f"left alone: {name} is not what the lab made", file=sys.stderr)
    for what in swept.stuck:
        print(f"could not be removed: {what}", file=sys.stderr)
    userns.end_if_unused(ledgers.labs)
    return COULD_NOT_RUN if swept.stuck else PASS
