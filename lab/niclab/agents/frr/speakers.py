"""FRR in a lab: zebra and bgpd in every router's namespace that speaks BGP, bgpd alone on nodes that have no agent.

A node's bgpd knows no zebra (`--no_zebra`) and does not listen: it advertises and installs nothing, as Cilium does.
Every daemon has its files in a directory of the lab's and belongs to the lab's ledger.
"""

from __future__ import annotations

import contextlib
import operator
import os
import shutil
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from niclab.agents.frr import config, launch, vty
from niclab.cilium.bgp import Rib, Session, originated, ribs, sessions, speakers
from niclab.cilium.decisions import Decisions
from niclab.errors import LabError, NoAnswer
from niclab.host import daemons
from niclab.host.daemons import Daemon
from niclab.host.datapath import AgentBgp
from niclab.host.ledgers import Ledger
from niclab.host.substrate import Substrate
from niclab.host.waiting import wait_until
from niclab.net.route import Address

STARTING = 10.0
"""Seconds for a daemon to open its socket; it takes tenths."""
SESSIONS = 20.0
"""Seconds for every session to be there: some turns of the connect timer on a busy machine."""
_LOOK = 0.02


class Speakers:
    """The routers of one lab that speak BGP, and what stands in for the nodes' agents."""

    def __init__(self, ledger: Ledger, substrate: Substrate, decisions: Decisions) -> None:
        self._ledger = ledger
        self._substrate = substrate
        self._decisions = decisions
        self._daemons: dict[tuple[str, str], Daemon] = {}
        self._sessions = sessions(decisions.topology)
        self.agents: Mapping[str, AgentBgp] = {}
        """Node → its agent, where real ones run."""
        self._nodes: tuple[str, ...] = ()
        """The nodes with which routers should have sessions."""
        self._away: set[str] = set()
        self._ended: set[str] = set()
        """Routers whose bgpd this lab has ended: they are known to have learned nothing."""
        """Routers whose bgpd does not run, or stands still."""

    @property
    def routers(self) -> tuple[str, ...]:
        bgp = self._decisions.topology.bgp
        return tuple(bgp.routers) if bgp is not None else ()

    @property
    def expected(self) -> Mapping[str, Rib]:
        """Speaker → what it learns when every node that should advertise does."""
        return ribs(self._decisions)

    def start(self, nodes: Iterable[str] = ()) -> None:
        """Start the routers' daemons, and one on each of these nodes. Raises LabError."""
        home = config.find()
        names = (*self.routers, *nodes)
        for name in names:
            self._configure(name)
        for router in self.routers:
            self._start(router, [str(home / "zebra"), "-f", str(self._directory(router) / "zebra.conf")])
        for router in self.routers:
            # bgpd that finds no zebra tries again only after seconds.
            self._until_there(router, "zebra", "zserv.api")
        for name in names:
            self._start_bgpd(name)
        for name in names:
            self._until_there(name, "bgpd", "bgpd.vty")

    def close(self) -> None:
        """End every daemon at once: they have nothing to save."""
        for daemon in self._daemons.values():
            daemon.process.kill()
        for daemon in self._daemons.values():
            daemon.process.wait()
        self._daemons.clear()

    def wait(self, nodes: Collection[str], *, patience: float = SESSIONS) -> None:
        """Return when the routers have a session with each other and with these nodes, and learn what is expected.

        Raises LabError when there is no session. Who learns something else is left to whoever compares. A router that
        is stopped is not waited for, nor what others learn without it.
        """
        self._nodes = tuple(nodes)
        here = {*nodes, *self.routers} - self._away

        def missing() -> list[str]:
            return [
                f"{session.own.host} has no session with {session.peer.tap} ({state})"
                for router in self.routers
                for session, state in self._states(router)
                if state != "Established" and session.peer.host in here and router in here
            ]

        found = _until_empty(missing, patience)
        if found:
            raise LabError(f"the BGP sessions do not stand after {patience:g} s", why="; ".join(found))
        if self._away:
            return
        expected = self.expected
        _until_empty(lambda: [one for one in self.routers if not self.has(one, expected[one])], patience)

    def settle(self) -> None:
        """After an outage: return when all is as it was. Raises LabError."""
        self.wait(self._nodes)

    def follow(self, decisions: Decisions) -> None:
        """The lab was changed: return when everybody has learned what now is expected, or patience has ended.

        Sessions over NICs that were not there from the beginning are configured nowhere.
        """
        self._decisions = decisions
        self._sessions = sessions(decisions.topology)
        with contextlib.suppress(LabError):
            self.wait([name for name in self._nodes if name in decisions.running])

    def rib(self, name: str) -> Rib:
        """What a speaker has learned from others and would use. Raises NoAnswer where it is silent; a daemon that this
        lab has ended has learned nothing."""
        if name in self._ended:
            return {}
        if name in self.agents:
            return self.agents[name].rib()
        return vty.rib(self._directory(name) / "bgpd.vty")

    def heard(self, node: str) -> Rib:
        """What a node's peers have told it: prefix → next hops."""
        if node in self.agents:
            return self.agents[node].heard()
        peers = [session.peer.address for session in self._sessions if session.own.host == node]
        return vty.heard(self._directory(node) / "bgpd.vty", peers)

    def has(self, router: str, wanted: Rib) -> bool:
        """Does a router use exactly this, and its kernel too?"""
        if self.rib(router) != wanted:
            return False
        kernel = vty.installed(self._directory(router) / "zebra.vty")
        # IPv6's gateways are link-local addresses there; the prefixes tell enough.
        return kernel.keys() == wanted.keys() and all(
            hops == wanted[prefix] for prefix, hops in kernel.items() if prefix.version == 4
        )

    def wait_for(self, router: str, wanted: Callable[[Rib], bool], *, within: float) -> bool:
        """Look, and look again for so many seconds, until what a router has learned is as wanted and in its kernel."""

        def lacking() -> list[str]:
            found = self.rib(router)
            return [] if wanted(found) and self.has(router, found) else [router]

        return not _until_empty(lacking, within)

    def states(self, name: str) -> dict[str, str]:
        """The NIC at the other end of each session (`node1.eth0`) → its state; `down` where nobody speaks."""
        return {session.peer.tap: state for session, state in self._states(name)}

    def _states(self, name: str) -> list[tuple[Session, str]]:
        found: Mapping[Address, str] = {}
        if name not in self._ended:
            agent = self.agents.get(name)
            found = agent.states() if agent is not None else vty.states(self._directory(name) / "bgpd.vty")
        mine = [session for session in self._sessions if session.own.host == name]
        return [(session, found.get(session.peer.address, "down")) for session in mine]

    @contextmanager
    def frozen(self, router: str) -> Iterator[None]:
        """Run the block while a router's bgpd stands still: its connections stay, and nothing is said on them."""
        daemon = self._own(router)
        os.kill(daemon.pid, signal.SIGSTOP)
        self._away.add(router)
        try:
            yield
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
            self._away.discard(router)
            self.settle()

    @contextmanager
    def stopped(self, router: str) -> Iterator[None]:
        """Run the block while a router's bgpd has ended, then start it again and wait for its sessions and routes."""
        daemon = self._own(router)
        daemon.process.kill()
        daemon.process.wait()
        self._away.add(router)
        self._ended.add(router)
        # zebra takes its routes back a moment later.
        zebra = self._directory(router) / "zebra.vty"
        _until_empty(lambda: list(map(str, vty.installed(zebra))), STARTING)
        try:
            yield
        finally:
            self._start_bgpd(router)
            self._away.discard(router)
            self._ended.discard(router)
            self._until_there(router, "bgpd", "bgpd.vty")
            self.settle()

    def _own(self, router: str) -> Daemon:
        if router not in self.routers or (router, "bgpd") not in self._daemons:
            raise LabError(f"there is no bgpd of {router} that is ours to end", fix="take a router of a lab just made")
        return self._daemons[router, "bgpd"]

    def _directory(self, name: str) -> Path:
        return self._ledger.path / "bgp" / name

    def _configure(self, name: str) -> None:
        directory = self._directory(name)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        numbers = speakers(self._decisions.topology)
        mine = [session for session in self._sessions if session.own.host == name]
        bgp = self._decisions.topology.bgp
        assert bgp is not None
        text = config.configuration(
            name,
            mine,
            asn=numbers[name],
            router_id=config.router_id(1 + list(numbers).index(name), mine),
            timers=bgp.timers,
            advertised=originated(self._decisions)[name],
            imports=name in self.routers,
        )
        (directory / "bgpd.conf").write_text(text)
        (directory / "zebra.conf").write_text(f"hostname {name}\n")

    def _start_bgpd(self, name: str) -> None:
        arguments = [str(config.find() / "bgpd"), "-f", str(self._directory(name) / "bgpd.conf")]
        # Where an agent would be, there is no listener either, and no zebra that could install something.
        self._start(name, arguments if name in self.routers else [*arguments, "--no_zebra", "--bgp_port", "0"])

    def _start(self, name: str, arguments: list[str]) -> None:
        directory, program = self._directory(name), Path(arguments[0]).name
        (directory / f"{program}.vty").unlink(missing_ok=True)
        own = [
            *("--vty_socket", str(directory), "--socket", str(directory / "zserv.api")),
            *("--pid_file", str(directory / f"{program}.pid"), "--vty_addr", "127.0.0.1", "--vty_port", "0"),
            *("--log", "stdout", "--log-level", "informational"),
            # Their own user could not write here; launch.py sees to it that root may be one of theirs.
            *("--user", "root", "--group", "root"),
        ]
        self._daemons[name, program] = daemons.start(
            self._ledger,
            f"{program} on {name}",
            launch.command(directory, [*arguments, *own]),
            log=directory / f"{program}.log",
            netns=self._substrate[name].fd,
            outright=True,
        )

    def _until_there(self, name: str, program: str, socket: str) -> None:
        daemon, path = self._daemons[name, program], self._directory(name) / socket

        def missing() -> list[str]:
            if daemon.exit_status is not None:
                raise LabError(f"{daemon.name} ended at once", why=daemon.tail(3) or "it said nothing")
            return [] if path.exists() else [socket]

        if _until_empty(missing, STARTING):
            raise LabError(f"{daemon.name} is not ready after {STARTING:g} s", why=daemon.tail(3) or "it said nothing")

    def collect(self, directory: Path) -> None:
        """Keep what every daemon was told and logged."""
        for kept in sorted((self._ledger.path / "bgp").glob("*/*")):
            if kept.suffix in (".conf", ".log"):
                directory.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):
                    shutil.copy(kept, directory / f"{kept.parent.name}-{kept.name}")


def _until_empty(look: Callable[[], list[str]], patience: float) -> list[str]:
    """Look until there is nothing, or patience ends; what was seen last. The first look is at once, and a daemon that
    does not answer may be one that starts. Raises NoAnswer when that is so to the end."""
    return wait_until(look, patience, done=operator.not_, every=_LOOK, retry=NoAnswer)
