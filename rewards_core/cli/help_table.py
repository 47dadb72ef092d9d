"""The tables of options in a help text, in two columns: typer's have seven, and cut the names that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from rich.table import Table
from rich.text import Text

_MAX_LEFT = 33
"""The width of the left column: room for the longest value and for most options with theirs. At 80 columns the help has 41."""


@contextmanager
def tables_of_two_columns() -> Iterator[None]:
    """Meanwhile, draw an option as its names with the value on the left, and its help on the right.

    typer has no setting for it, so its table is replaced; a version of typer that draws with another one is left as it is.
    """
    typer: Any = None
    with suppress(ImportError):
        typer = import_module("typer.rich_utils")
    if getattr(typer, "Table", None) is not Table:
        yield
        return
    typer.Table = _HelpTable
    try:
        yield
    finally:
        typer.Table = Table


class _HelpTable(Table):
    def add_row(self, *cells: Any, **settings: Any) -> None:
        """Add a row, an option in two cells. No text is cut."""
        for cell in cells:
            for part in (cell, *getattr(cell, "renderables", ())):
                if isinstance(part, Text):
                    part.overflow = "fold"
        texts: list[Any] = [*cells[-6:-1]]  # four of names, and the value
        is_option = len(texts) == 5 and all(isinstance(each, Text) for each in texts) and texts[0].plain.startswith("--")
        if is_option:
            cells = (*cells[:-6], _option(*texts), cells[-1])
        super().add_row(*cells, **settings)
        if is_option:
            self.columns[-2].max_width = _MAX_LEFT


def _option(*texts: Text) -> Text:
    *names, value = texts
    option = Text(", ").join(name for some in names if some.plain for name in some.split(","))
    if value.plain and "bool" not in value.plain:  # a flag takes no value
        fits = option.cell_len + 1 + value.cell_len <= _MAX_LEFT
        option = Text(" " if fits else "\n  ").join([option, value])
    option.overflow = "fold"
    return option
