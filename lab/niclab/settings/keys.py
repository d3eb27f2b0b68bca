"""Which keys exist: how people spell them, and what is wrong with one that does not exist."""

from __future__ import annotations

import re

from niclab.errors import Problem, closest
from niclab.settings.flags import agent_keys, table
from niclab.settings.helm_table import flag_of


def spelled(word: str) -> str:
    """A key as people write it, in the ConfigMap's spelling: `--enable_ipv6`, `CILIUM_DEVICES`, `routingMode`."""
    word = word.strip()
    if word in agent_keys():
        return word
    word = re.sub(r"^(--|CILIUM_)", "", word)
    if not word.isupper():
        word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", word)
    return word.replace("_", "-").lower()


def key_problem(key: str, file: str, line: int) -> Problem | None:
    """What is wrong with a key that no agent has, and the nearest one that exists."""
    flag = table().get(key)
    if flag is None:
        return Problem(file, line, key, "no Cilium agent has this key", _fix(key))
    if flag.of_agents:
        return None
    who = "the operator" if flag.reader == "operator" else "an init container"
    return Problem(file, line, key, f"{who} reads this key, no agent does", "leave it out")


def _fix(key: str) -> str:
    if spelled(key) in agent_keys():
        return f"write {spelled(key)}"
    if flag := flag_of(key):
        return f"write {flag}, the agent's flag for the Helm value {key}"
    near = closest(spelled(key), agent_keys())
    return f"did you mean {near}?" if near else "remove it, or see cilium-agent --help for the flags there are"
