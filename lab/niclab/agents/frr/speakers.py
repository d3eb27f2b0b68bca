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

from niclab.agents.frr import programs
from niclab.cilium.bgp import Rib, Session, ribs, sessions, speakers
from niclab.cilium.decisions import Decisions
from niclab.errors import LabError, NoAnswer, nearest
from niclab.host import daemons, syscalls
from niclab.host.daemons import Daemon
from niclab.host.datapath import AgentBgp
from niclab.host.ledgers import Ledger
from niclab.host.substrate import Substrate
from niclab.host.waiting import wait_until
from niclab.net.route import Address, ip_network

STARTING = 10.0
"""Seconds for a daemon to open its socket; it takes tenths."""
SESSIONS = 20.0
"""Seconds for every session to be there: some turns of the connect timer on a busy machine."""
WITHIN = 10.0
"""Seconds: the hold time of 3 s, its discovery, and a busy machine."""
_OWN = ("/run", "/etc/frr", "/var/lib/frr", "/var/tmp")
_GROUPS = "root:x:0:\nfrr:x:0:\nfrrvty:x:0:root\n"
_SILENT = "it said nothing"
Learned = Mapping[str, frozenset[str]]
"""Prefix → next hops, as text."""


class Speaker:
    """One router or node, as its bgpd or agent tells it. What is expected and what is learned have the same shape."""

    def __init__(self, name: str, lab: Speakers) -> None:
        self.name = name
        self._lab = lab
        self.directory = lab.ledger.path / "bgp" / name
        self._bgpd, self._zebra = self.directory / "bgpd.vty", self.directory / "zebra.vty"
        self.daemons: dict[str, Daemon] = {}
        self.away = False
        """Its bgpd does not run, or stands still."""
        self._ended = False
        """This lab has ended its bgpd: it is known to have learned nothing."""

    @property
    def learned(self) -> Learned:
        """Every prefix it has learned, and the next hops it uses; nothing while its bgpd does not run."""
        return _text(self.rib())

    @property
    def expected(self) -> Learned:
        """What it should learn when all sessions stand: of a node nothing."""
        return _text(self._lab.expected[self.name])

    @property
    def heard(self) -> Learned:
        """What a node's peers have told it; it rejects all of it."""
        agent = self._lab.agents.get(self.name)
        peers = [session.peer.address for session in self._sessions]
        return _text(agent.heard() if agent is not None else programs.heard(self._bgpd, peers))

    @property
    def sessions(self) -> Mapping[str, str]:
        """The NIC at the other end (`node1.eth0`) → the state of the session: `Established` when it stands, `down`
        where nobody speaks."""
        return {session.peer.tap: state for session, state in self.states()}

    def next_hops(self, prefix: str) -> frozenset[str]:
        """By which next hops it reaches a prefix: none when it has not learned it."""
        return self.learned.get(str(ip_network(prefix)), frozenset())

    def must_learn(self, prefix: str, next_hops: Iterable[str], *, within: float = WITHIN) -> None:
        """Wait until it uses these next hops for a prefix (none: until it has forgotten it), in its kernel as well.

        Of routers only. Raises AssertionError when it does not after so many seconds.
        """
        __tracebackhide__ = True
        network, wanted = ip_network(prefix), frozenset(next_hops)

        def lacking() -> list[str]:
            rib = self.rib()
            right = frozenset(map(str, rib.get(network, ()))) == wanted
            return [] if right and self.has(rib) else [self.name]

        if _until_empty(lacking, within):
            raise AssertionError(
                f"{self.name} must learn {prefix} by {_words(wanted)}, "
                f"has it by {_words(self.next_hops(prefix))} after {within:g} s\n"
                + "\n".join(f"  {peer}: {state}" for peer, state in self.sessions.items())
            )

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Run the block while a router's bgpd stands still, so that its peers' hold timers run out: its connections
        stay, and nothing is said on them."""
        daemon = self._own()
        os.kill(daemon.pid, signal.SIGSTOP)
        self.away = True
        try:
            yield
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
            self.away = False
            self._lab.settle()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Run the block while a router's bgpd is ended, then start it again; all is learned as before afterwards."""
        self._own().kill()
        self.away = self._ended = True
        # zebra takes its routes back a moment later.
        _until_empty(lambda: list(map(str, programs.installed(self._zebra))), STARTING)
        try:
            yield
        finally:
            self.start_bgpd()
            self.away = self._ended = False
            self.wait_for("bgpd", "bgpd.vty")
            self._lab.settle()

    @property
    def _is_router(self) -> bool:
        return self.name in self._lab.routers

    @property
    def _sessions(self) -> list[Session]:
        return [session for session in self._lab.sessions if session.own.host == self.name]

    def rib(self) -> Rib:
        """What it has learned from others and would use. Raises NoAnswer where it is silent."""
        if self._ended:
            return {}
        agent = self._lab.agents.get(self.name)
        return agent.rib() if agent is not None else programs.rib(self._bgpd)

    def has(self, wanted: Rib) -> bool:
        """Does a router use exactly this, and its kernel too?"""
        if self.rib() != wanted:
            return False
        kernel = programs.installed(self._zebra)
        # IPv6's gateways are link-local addresses there; the prefixes tell enough.
        return kernel.keys() == wanted.keys() and all(
            hops == wanted[prefix] for prefix, hops in kernel.items() if prefix.version == 4
        )

    def states(self) -> list[tuple[Session, str]]:
        found: Mapping[Address, str] = {}
        if not self._ended:
            agent = self._lab.agents.get(self.name)
            found = agent.states() if agent is not None else programs.states(self._bgpd)
        return [(session, found.get(session.peer.address, "down")) for session in self._sessions]

    def _own(self) -> Daemon:
        if not self._is_router or "bgpd" not in self.daemons:
            fix = "take a router of a lab just made"
            raise LabError(f"there is no bgpd of {self.name} that is ours to end", fix=fix)
        return self.daemons["bgpd"]

    def configure(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.directory / "bgpd.conf").write_text(programs.configuration(self._lab.decisions, self.name))
        (self.directory / "zebra.conf").write_text(f"hostname {self.name}\n")

    def start_bgpd(self) -> None:
        # Where an agent would be, there is no listener either, and no zebra that could install something.
        self.start("bgpd", *(() if self._is_router else ("--no_zebra", "--bgp_port", "0")))

    def start(self, program: str, *arguments: str) -> None:
        """Start a daemon that sees nothing of the host's FRR.

        It is in the router's network namespace already. What it would write outside its own directory goes to file
        systems of its own: below /run (lib/libfrr.c makes /run/frr), to /var/tmp (crash logs, lib/zlog.c), and to
        /etc/frr and /var/lib/frr, which the host's FRR may be using. It finds an /etc/group of its own, in which root
        is of the group that Debian's FRR insists on (lib/privs.c), so that it can run as the lab's owner.
        """
        directory = str(self.directory)
        (self.directory / f"{program}.vty").unlink(missing_ok=True)
        command = [
            *(str(programs.find() / program), "-f", f"{directory}/{program}.conf", *arguments),
            *("--vty_socket", directory, "--socket", f"{directory}/zserv.api"),
            *("--pid_file", f"{directory}/{program}.pid", "--vty_addr", "127.0.0.1", "--vty_port", "0"),
            *("--log", "stdout", "--log-level", "informational"),
            # Their own user could not write here.
            *("--user", "root", "--group", "root"),
        ]
        groups = f"{_OWN[-1]}/group"
        steps: list[syscalls.Step] = [
            ("own_mounts",),
            # A copy of a named namespace's mount would keep that namespace alive, whosesoever it is.
            ("forget", "nsfs"),
            ("open", directory),
            *(("fresh", "tmpfs", path) for path in _OWN if Path(path).is_dir()),
            ("show", directory, directory),
            ("file", groups, _GROUPS),
            ("bind", groups, "/etc/group"),
        ]
        self.daemons[program] = daemons.start(
            self._lab.ledger,
            f"{program} on {self.name}",
            syscalls.command(steps, command, purpose=f"start {command[0]}"),
            log=self.directory / f"{program}.log",
            netns=self._lab.substrate[self.name].fd,
            outright=True,
        )

    def wait_for(self, program: str, socket: str) -> None:
        daemon, path = self.daemons[program], self.directory / socket

        def missing() -> list[str]:
            if daemon.exit_status is not None:
                raise LabError(f"{daemon.name} ended at once", why=daemon.tail(3) or _SILENT)
            return [] if path.exists() else [socket]

        if _until_empty(missing, STARTING):
            raise LabError(f"{daemon.name} is not ready after {STARTING:g} s", why=daemon.tail(3) or _SILENT)


class Speakers:
    """The routers of one lab that speak BGP, and what stands in for the nodes' agents."""

    def __init__(self, ledger: Ledger, substrate: Substrate, decisions: Decisions) -> None:
        self.ledger = ledger
        self.substrate = substrate
        self.decisions = decisions
        self.sessions = sessions(decisions.topology)
        self.agents: Mapping[str, AgentBgp] = {}
        """Node → its agent, where real ones run."""
        bgp = decisions.topology.bgp
        self.routers = tuple(bgp.routers) if bgp is not None else ()
        self._speakers = {name: Speaker(name, self) for name in speakers(decisions.topology)}
        self._nodes: tuple[str, ...] = ()
        """The nodes with which routers should have sessions."""

    @property
    def expected(self) -> Mapping[str, Rib]:
        """Speaker → what it learns when every node that should advertise does."""
        return ribs(self.decisions)

    def speaker(self, name: str) -> Speaker:
        """One of them. Raises LabError when there is none of this name."""
        if name not in (known := self.expected):
            raise LabError(f"{name!r} does not speak BGP", fix=nearest(name, known))
        return self._speakers[name]

    @property
    def _routers(self) -> list[Speaker]:
        return [self._speakers[name] for name in self.routers]

    def start(self, nodes: Iterable[str] = ()) -> None:
        """Start the routers' daemons, and one on each of these nodes. Raises LabError."""
        every = [*self._routers, *(self._speakers[name] for name in nodes)]
        programs.find()
        for speaker in every:
            speaker.configure()
        for router in self._routers:
            router.start("zebra")
        for router in self._routers:
            # bgpd that finds no zebra tries again only after seconds.
            router.wait_for("zebra", "zserv.api")
        for speaker in every:
            speaker.start_bgpd()
        for speaker in every:
            speaker.wait_for("bgpd", "bgpd.vty")

    def close(self) -> None:
        """End every daemon at once."""
        running = [daemon for speaker in self._speakers.values() for daemon in speaker.daemons.values()]
        for daemon in running:
            daemon.process.kill()
        for daemon in running:
            daemon.kill()

    def wait(self, nodes: Collection[str], *, patience: float = SESSIONS) -> None:
        """Return when the routers have a session with each other and with these nodes, and learn what is expected.

        Raises LabError when there is no session. Who learns something else is left to whoever compares. A router that
        is stopped is not waited for, nor what others learn without it.
        """
        self._nodes = tuple(nodes)
        away = {router.name for router in self._routers if router.away}
        here = {*nodes, *self.routers} - away

        def missing() -> list[str]:
            return [
                f"{router.name} has no session with {session.peer.tap} ({state})"
                for router in self._routers
                for session, state in router.states()
                if state != "Established" and session.peer.host in here and router.name in here
            ]

        if found := _until_empty(missing, patience):
            raise LabError(f"the BGP sessions do not stand after {patience:g} s", why="; ".join(found))
        if not away:
            expected = self.expected
            _until_empty(lambda: [one.name for one in self._routers if not one.has(expected[one.name])], patience)

    def settle(self) -> None:
        """After an outage: return when all is as it was. Raises LabError."""
        self.wait(self._nodes)

    def follow(self, decisions: Decisions) -> None:
        """The lab was changed: return when everybody has learned what now is expected, or patience has ended.

        Sessions over NICs that were not there from the beginning are configured nowhere.
        """
        self.decisions = decisions
        self.sessions = sessions(decisions.topology)
        with contextlib.suppress(LabError):
            self.wait([name for name in self._nodes if name in decisions.running])

    def collect(self, directory: Path) -> None:
        """Keep what every daemon was told and logged."""
        for kept in sorted((self.ledger.path / "bgp").glob("*/*")):
            if kept.suffix in (".conf", ".log"):
                directory.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):
                    shutil.copy(kept, directory / f"{kept.parent.name}-{kept.name}")


def _until_empty(look: Callable[[], list[str]], patience: float) -> list[str]:
    """Look until there is nothing, or patience ends; what was seen last. The first look is at once, and a daemon that
    does not answer may be one that starts. Raises NoAnswer when that is so to the end."""
    return wait_until(look, patience, done=operator.not_, every=0.02, retry=NoAnswer)


def _text(rib: Rib) -> Learned:
    return {str(prefix): frozenset(map(str, hops)) for prefix, hops in rib.items()}


def _words(hops: Iterable[str]) -> str:
    return " and ".join(sorted(hops)) or "no next hop"
