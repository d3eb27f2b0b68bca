"""What `niclab` can be told. Commands are imported only when they run, so `--help` is quick."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import TypeAlias

from niclab.errors import LabError
from niclab.plugin import options

_DESCRIPTION = (
    "Which physical NIC carries this pod's traffic, and why? Build a multi-NIC lab, send probes, watch every cable."
)

Run = Callable[[argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="niclab", description=_DESCRIPTION)
    top.add_argument("--version", action="version", version=_version())
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _check(commands)
    _validate(commands)
    _graph(commands)
    _trace(commands)
    _explain(commands)
    _predict(commands)
    _up(commands)
    _labs(commands)
    _diff(commands)
    _matrix(commands)
    _parity(commands)
    _behaviours(commands)
    _claims(commands)
    _bundles(commands)
    _completion(commands)
    return top


def _version() -> str:
    from importlib import metadata

    try:
        return f"niclab {metadata.version('niclab')}"
    except metadata.PackageNotFoundError:
        return "niclab (not installed)"


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add(
    commands: Commands, name: str, help_: str, run: str = "", *, userns: str | None = None
) -> argparse.ArgumentParser:
    """A verb. `run`: its module and function below niclab.cli (default: `run` of the module of its name)."""
    command = commands.add_parser(name, help=help_, description=help_)
    command.set_defaults(run=run or f"{name}.run", userns=userns)
    return command


def loaded(options: argparse.Namespace) -> Run:
    """The function that runs the chosen verb; only now is its module imported."""
    module, _, function = options.run.partition(".")
    run: Run = getattr(importlib.import_module(f"niclab.cli.{module}"), function)
    return run


def _check(commands: Commands) -> None:
    command = _add(commands, "check", "is this machine able? what is missing, and what to install")
    _output(command)


def _output(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", choices=("text", "json"), default="text")


def _validate(commands: Commands) -> None:
    command = _add(commands, "validate", "check topologies and settings files without building anything")
    command.add_argument("file", nargs="*", help="topologies (names or paths) and settings files")
    command.add_argument(
        "--schema",
        nargs="?",
        const="topology",
        choices=("topology", "trace", "explain", "predict"),
        help="print a JSON Schema",
    )
    command.add_argument(
        "--as",
        dest="format",
        choices=("configmap", "helm", "flags"),
        help="write the settings of all files together in this format",
    )


def _graph(commands: Commands) -> None:
    command = _add(commands, "graph", "draw a topology")
    command.add_argument("topology")
    command.add_argument("-f", "--format", choices=("mermaid", "dot"), default="mermaid")


def _request_options(command: argparse.ArgumentParser) -> None:
    """The topology, and what Cilium is configured with."""
    command.add_argument("topology", help="a name (see topologies/) or the path of a YAML file")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an agent flag")
    command.add_argument("--node-set", action="append", default=[], metavar="NODE:KEY=VALUE", help="a flag of one node")
    command.add_argument(
        "--settings",
        action="append",
        default=[],
        metavar="FILE",
        help="a cilium-config ConfigMap, Helm values, a CiliumNodeConfig, or KEY=VALUE lines",
    )
    command.add_argument(
        "--route", action="append", default=[], metavar="'NODE|all: ROUTE'", help="one more route, in iproute2's words"
    )
    command.add_argument(
        "--rule", action="append", default=[], metavar="'NODE|all: RULE'", help="one more rule, in iproute2's words"
    )
    command.add_argument(
        "--sysctl", action="append", default=[], metavar="'NODE|all: KEY=VALUE'", help="a net.* sysctl of a host"
    )
    command.add_argument(
        "--node-ip",
        action="append",
        default=[],
        metavar="'NODE: ADDRESS'",
        help="which of a node's addresses is its node IP",
    )
    command.add_argument(
        "--no-default-routes", action="store_true", help="without the default routes of the topology's nodes"
    )


def _lab_options(command: argparse.ArgumentParser) -> None:
    """What `trace` and `up` build."""
    _request_options(command)
    command.add_argument("--datapath", **options.DATAPATH)
    command.add_argument(
        "--cilium-version",
        metavar="X.Y",
        help="the version modelled (default: 1.20); a bundle's name or version for real agents (default: the newest)",
    )
    command.add_argument("--control-plane", **options.CONTROL_PLANE)


def _model_options(command: argparse.ArgumentParser) -> None:
    """What the model is asked about."""
    _request_options(command)
    command.add_argument("--cilium-version", metavar="X.Y", help="the version modelled (default: 1.20)")
    command.set_defaults(datapath="builtin", control_plane=None)


def _flow_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--flow",
        action="append",
        default=[],
        metavar="'FROM -> TO'",
        help="a pod, an external or node.nic each; TO may end in :udp:PORT or :tcp:PORT (default: the topology's)",
    )


def _expect_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="FLOW=NIC",
        help="exit 1 unless the flow leaves its node by NIC",
    )


def _explain(commands: Commands) -> None:
    command = _add(commands, "explain", "why each flow goes where it goes, decision by decision; builds nothing")
    _model_options(command)
    _flow_options(command)
    _expect_option(command)
    _output(command)


def _predict(commands: Commands) -> None:
    command = _add(commands, "predict", "the NIC matrix for given settings, without a packet; builds nothing")
    _model_options(command)
    _flow_options(command)
    command.add_argument(
        "--devices", action="append", metavar="LIST", help="a row with this `devices`, repeatable; '' stands for unset"
    )
    command.set_defaults(expect=[])
    _output(command)


def _trace(commands: Commands) -> None:
    command = _add(commands, "trace", "build a lab, send flows, say which NIC carried what", userns="transient")
    _lab_options(command)
    _flow_options(command)
    command.add_argument("--count", type=_count, default=5, help="probes per flow (default: 5)")
    command.add_argument("--size", type=int, help="bytes of each probe's IP packet (default: the smallest)")
    _expect_option(command)
    command.add_argument("--pcap", metavar="FILE", help="write every tap's frames to a pcapng file")
    command.add_argument("--artifacts", metavar="DIR", help="keep real agents' logs and outputs in this new directory")
    _output(command)


def _count(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if not 1 <= count <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of probes from 1 to 256")
    return count


def _lab_id(text: str) -> str:
    from niclab.host.ledgers import check_id  # imported here: it takes longer than --help may

    try:
        check_id(text)
    except LabError as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.fix}") from None
    return text


def _up(commands: Commands) -> None:
    command = _add(commands, "up", "build a lab and let it stand", "labs.up", userns="persistent")
    _lab_options(command)
    command.add_argument(
        "--id", type=_lab_id, help="the lab's name (default: a random one); namespaces are called ID-NODE"
    )


def _diff(commands: Commands) -> None:
    command = _add(commands, "diff", "which flows moved to another NIC or changed source between two records")
    command.add_argument("before", help="a run.json or a saved `niclab trace -o json`")
    command.add_argument("after", nargs="?", help="another one (default: the same record's other Cilium version)")
    _output(command)


def _matrix(commands: Commands) -> None:
    command = _add(commands, "matrix", "every NIC matrix of a run, shares as bars, and unpredicted flows")
    command.add_argument("record", help="a run.json, as pytest lab/ leaves it")


def _parity(commands: Commands) -> None:
    command = _add(
        commands, "parity", "run the same cases on the built-in datapath and on real Cilium; print what differs"
    )
    command.add_argument("topology", nargs="?", default="two-nic")
    command.add_argument(
        "--cilium", action="append", metavar="X.Y", help="a bundle, repeatable (default: one of each version at hand)"
    )
    command.add_argument("--control-plane", **{**options.CONTROL_PLANE, "default": "kvstore"})
    command.add_argument(
        "--case", action="append", default=[], metavar="NAME", help="only cases with this in their name, repeatable"
    )
    command.add_argument("--list", action="store_true", help="list the cases")
    _output(command)


def _behaviours(commands: Commands) -> None:
    command = _add(commands, "behaviours", "what differs between Cilium versions for a node's NICs")
    command.add_argument("--from", dest="before", metavar="X.Y", help="the version before an upgrade")
    command.add_argument("--to", dest="after", metavar="X.Y", help="the version after it: only what differs is printed")
    command.add_argument("-o", "--output", choices=("text", "json", "markdown"), default="text")


def _claims(commands: Commands) -> None:
    about = {
        "claims": "what an article says of `devices`, put to the proof: true, partly or false, with the evidence",
        "issues": "what users of Cilium on several NICs ran into, and what these versions do",
    }
    for name, help_ in about.items():
        command = _add(commands, name, help_, "claims.run")
        command.set_defaults(kind=name, number=None)
        if name == "issues":
            command.add_argument("number", nargs="*", type=int, help="only these (default: all)")
        command.add_argument("--datapath", **options.DATAPATH)
        command.add_argument("--cilium", **options.CILIUM)
        command.add_argument("--control-plane", **options.CONTROL_PLANE)
        command.add_argument("--record", metavar="RUN.json", help="print from this record instead of running anything")
        command.add_argument("-o", "--output", choices=("text", "json", "markdown"), default="text")


def _labs(commands: Commands) -> None:
    down = _add(commands, "down", "take a lab down", "labs.down", userns="persistent")
    down.add_argument("id", nargs="?", help="which one (default: the only one)")
    listing = _add(commands, "ls", "the labs of this machine", "labs.ls", userns="persistent")
    _output(listing)
    inspect = _add(
        commands,
        "inspect",
        "what a node's agent reported, its links, routes and rules",
        "labs.inspect",
        userns="persistent",
    )
    inspect.add_argument("host", nargs="?", help="a node, external, router or pod (default: an overview)")
    inspect.add_argument("--id", help="which lab (default: the only one)")
    execute = _add(
        commands,
        "exec",
        "run a command in a host's view: niclab exec node1 -- ip route",
        "labs.execute",
        userns="persistent",
    )
    execute.add_argument("host")
    execute.add_argument("--id", help="which lab (default: the only one)")
    execute.add_argument("command", nargs=argparse.REMAINDER, help="the command, after --")
    sweep = _add(commands, "sweep", "clean up after labs whose process was killed", "labs.sweep", userns="persistent")
    sweep.add_argument("--all", action="store_true", help="also labs that were kept on purpose")


def _bundles(commands: Commands) -> None:
    for product, title, companion in (("cilium", "Cilium", "operator"), ("kubernetes", "the API server", "etcd")):
        help_ = f"bundles of {title}: get them, list them, remove them"
        group = commands.add_parser(product, help=help_, description=help_)
        group.set_defaults(product=product)
        verbs = group.add_subparsers(metavar="VERB", required=True)
        pull = _add(verbs, "pull", "fetch a version, or any image (its digest is checked)", "bundles.pull")
        pull.add_argument("image", metavar="VERSION|IMAGE")
        pull.add_argument("--digest", metavar="sha256:…", help="what the image's digest must be")
        load = _add(verbs, "load", "unpack an archive made by `docker save`, or an OCI archive", "bundles.load")
        load.add_argument("archive")
        for command in (pull, load):
            command.add_argument("--name", help="what to call it (default: its version)")
            command.add_argument(f"--{companion}", dest="companion", metavar="IMAGE", help=f"where {companion} is")
        pull.add_argument(f"--no-{companion}", dest="companion", action="store_const", const="", help="do without it")
        add = _add(verbs, "add", "use a directory, such as a build of one's own; nothing is copied", "bundles.add")
        add.add_argument("name")
        add.add_argument("directory")
        _output(_add(verbs, "ls", "the bundles of this machine", "bundles.ls"))
        rm = _add(verbs, "rm", "remove images, forget directories", "bundles.rm")
        rm.add_argument("name", nargs="+")


def _completion(commands: Commands) -> None:
    command = _add(commands, "completion", "print a script that completes niclab's words in a shell")
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"))
