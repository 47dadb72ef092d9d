"""The mistakes of a file, told once for each kind and column, however many rows have them."""

from __future__ import annotations

from attrs import Factory, define

from payouts.source.lines import Mistake
from rewards_core.cli.output import Output
from rewards_core.text import counted

_MOST_TOLD = 20
_MOST_PLACES = 10
_LINES_TOLD = 3


@define
class _Group:
    first: Mistake
    count: int = 0
    places: list[tuple[int, str]] = Factory(list)


class Mistakes:
    """Collect the mistakes of a file in bounded memory and tell them.

    Args:
        output: Where they are told.
        all_errors: Whether each is told as it comes, instead of once for each kind and column at the end.
    """

    def __init__(self, output: Output, *, all_errors: bool) -> None:
        self._output = output
        self._all_errors = all_errors
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, mistake: Mistake) -> None:
        """Take one mistake."""
        if self._all_errors:
            self._record(_Group(mistake, 1, [(mistake.line, mistake.name)]), str(mistake))
            return
        group = self._groups.setdefault((mistake.kind, mistake.name), _Group(mistake))
        group.count += 1
        if len(group.places) < _MOST_PLACES:
            group.places.append((mistake.line, mistake.name))

    def tell(self) -> None:
        """Tell what was collected, at most 20 lines of it to people."""
        groups = list(self._groups.values())
        told = groups if self._output.as_json else groups[:_MOST_TOLD]
        for group in told:
            self._record(group, _text(group))
        more = len(groups) - len(told)
        if more:
            self._output.say(f"and {counted(more, 'more kind', 'more kinds')} of mistake; --all-errors shows everything")

    def _record(self, group: _Group, text: str) -> None:
        first = group.first
        place = {"line": first.line, "column": first.column, "name": first.name}
        told = {"message": first.message, "count": group.count, "places": group.places}
        self._output.record({"event": "mistake", "kind": first.kind, **place, **told}, text=text)


def _text(group: _Group) -> str:
    if group.count == 1:
        return str(group.first)
    *others, last = [str(line) for line, _ in group.places[:_LINES_TOLD]]
    more = group.count - len(others) - 1
    listed = f"{', '.join((*others, last))} and {more:,} more" if more else f"{', '.join(others)} and {last}"
    named = f" ({group.first.name})" if group.first.name else ""
    return f"lines {listed}{named}: {group.first.message}"
