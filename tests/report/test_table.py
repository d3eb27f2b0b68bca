"""Tables for people: folded, never wider than asked, nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from niclab.report.matrix import table

WORDS = st.lists(st.text("abc", min_size=1, max_size=12), max_size=12).map(" ".join)


def test_long_cells_are_folded_beside_short_ones() -> None:
    assert list(table(["key", "words"], [["a", "one two three four"]], width=14)) == [
        "key  words",
        "───  ─────────",
        "a    one two",
        "     three",
        "     four",
    ]


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5))
def test_no_line_is_too_wide_and_no_word_is_lost(rows: list[tuple[str, str, str]]) -> None:
    lines = list(table(["a", "b", "c"], rows, width=60))
    assert all(len(line) <= 60 for line in lines)
    assert sorted(" ".join(lines[2:]).split()) == sorted(" ".join(" ".join(row) for row in rows).split())
