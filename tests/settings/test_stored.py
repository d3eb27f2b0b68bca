"""Settings of kept labs: nothing is lost on the way to a file and back."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from niclab import LAB_BASELINE, Settings
from niclab.settings import Expression, NodeSettings, Selector, formats
from niclab.settings.flags import Values

_words = st.text("abcdefghijklmnopqrstuvwxyz-.", min_size=1, max_size=8)
_values = st.dictionaries(_words.map(lambda word: f"x-{word}"), st.text(max_size=12), max_size=3).map(Values)
_expressions = st.builds(
    Expression,
    _words,
    st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    st.lists(_words, max_size=2).map(tuple),
)
_selectors = st.builds(Selector, st.dictionaries(_words, _words, max_size=2).map(Values), st.tuples(_expressions))
_nodes = st.builds(NodeSettings, _words, st.none() | _selectors, _values)


@given(st.builds(Settings, _values, st.lists(_nodes, max_size=3).map(tuple)))
def test_settings_are_the_same_again(settings: Settings) -> None:
    assert formats.from_json(json.loads(json.dumps(formats.to_json(settings)))) == settings


def test_lines_say_who_is_told() -> None:
    told = LAB_BASELINE.merged(
        Settings(
            Values({"devices": "eth0"}),
            (
                NodeSettings.of("node1", {"devices": "eth1"}),
                NodeSettings.of("edge", {"mtu": "1400"}, {"role": "edge"}),
            ),
        )
    )
    assert [line for line in formats.lines(told) if "devices" in line or "mtu" in line] == [
        "devices=eth0",
        "CiliumNodeConfig edge:mtu=1400",
        "node1:devices=eth1",
    ]
