"""How pods are plugged: what is asked again, and what is an error at once. The answers are recorded ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from niclab.agents import agent
from niclab.agents.agent import Agent
from niclab.errors import LabError
from niclab.net.route import Address

UNHEARD_OF = (
    "unable to allocate IP via local cilium agent: [POST /ipam][502] postIpamFailure "
    '"unable to determine IPAM pool for owner "default/pod1": resource Pod "default/pod1" not found"'
)
EXHAUSTED = 'unable to allocate IP via local cilium agent: [POST /ipam][502] postIpamFailure "range is full"'
LATE = "unable to create endpoint: Cilium API client timeout exceeded"
RESULT = '{"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.244.1.10/32"}]}'


class Plugin(Agent):
    """In the place of an agent's cilium-cni: it fails with these words, one after the other, then plugs the pod."""

    def __init__(self, *failures: str) -> None:
        self.failures = list(failures)

    def run_cni(self, stdin: str, cni_environment: Mapping[str, str]) -> str:
        assert stdin and cni_environment["CNI_COMMAND"] == "ADD"
        if self.failures:
            raise LabError("cilium-cni failed on node1", why=self.failures.pop(0))
        return RESULT


def plug(plugin: Plugin) -> tuple[Address, ...]:
    return plugin.plug("pod1", Path("/run/netns/pod1"), {})


def test_an_agent_that_has_not_heard_of_the_pod_yet_is_asked_again() -> None:
    found = plug(Plugin(UNHEARD_OF, UNHEARD_OF))
    assert [str(address) for address in found] == ["10.244.1.10"]


def test_other_failures_are_told_at_once() -> None:
    plugin = Plugin(EXHAUSTED, EXHAUSTED)
    with pytest.raises(LabError, match="cilium-cni failed on node1"):
        plug(plugin)
    assert len(plugin.failures) == 1


def test_an_agent_that_never_hears_of_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "POD_PATIENCE", 0.3)
    with pytest.raises(LabError) as caught:
        plug(Plugin(*[UNHEARD_OF] * 99))
    assert "default/pod1" in caught.value.why


def test_a_plugin_that_gave_up_while_programs_were_compiled_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plug(Plugin(LATE, UNHEARD_OF, LATE))
    assert [str(one) for one in found] == ["10.244.1.10"]
    monkeypatch.setattr(agent, "CNI_TIMEOUT", 0.2)
    with pytest.raises(LabError, match="cilium-cni failed") as caught:
        plug(Plugin(*[LATE] * 99))
    assert "client timeout exceeded" in caught.value.why
