"""A table for a person who reads a terminal: columns side by side, long cells folded. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

_GAP = 2


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> Iterator[str]:
    """The lines of a table at most `width` characters wide; a column is no wider than its longest cell."""
    longest = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    widths = _widths(longest, width - _GAP * (len(head) - 1))
    for number, row in enumerate((head, *rows)):
        folded = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths, strict=True)]
        for line in range(max(map(len, folded))):
            cells = (cell[line] if line < len(cell) else "" for cell in folded)
            yield (" " * _GAP).join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True)).rstrip()
        if number == 0:
            yield (" " * _GAP).join("─" * size for size in widths)


def _widths(longest: Sequence[int], room: int) -> list[int]:
    """Short columns get what they need; the others share what is left."""
    widths = dict.fromkeys(range(len(longest)), 0)
    open_columns, left = set(widths), room
    while open_columns:
        fair = max(1, left // len(open_columns))
        short = {column for column in open_columns if longest[column] <= fair}
        for column in short or open_columns:
            widths[column] = max(1, longest[column] if short else fair)
            left -= widths[column]
        open_columns -= short or open_columns
    return [widths[column] for column in range(len(longest))]
