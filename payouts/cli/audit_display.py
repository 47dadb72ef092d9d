"""The progress of an audit, and its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from payouts.audit.comparison import DIFFERENCES, shown
from payouts.cli.display import RECORD_EVERY, moving_line
from rewards_core.cli.output import print_stderr
from rewards_core.text import counted

if TYPE_CHECKING:
    from payouts.audit.run import AuditRun
    from payouts.ledger.reader import Audit, Difference
    from payouts.request_budget import RequestBudget
    from rewards_core.cli.output import Output

_MAX_SHOWN = 20
_NO_BREAK = "\u00a0"


class AuditDisplay:
    """Show the progress of an audit: a moving line for people, a record every five seconds for programs."""

    def __init__(self, run: AuditRun, budget: RequestBudget, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._budget = budget
        self._output = output
        self._clock = clock
        self._recorded_at = clock()
        self._bar = Progress(
            *moving_line(output, "told"),
            console=output.console,
            auto_refresh=False,
            get_time=clock,
            transient=True,
            disable=output.as_json or not output.console.is_terminal,  # it would leave an empty line in a file
        )
        self._task = self._bar.add_task("", total=run.begun.rows, told="")

    def begin(self) -> None:
        """Start the display."""
        self._bar.start()

    def refresh(self) -> None:
        """Show the progress; called often."""
        run = self._run
        if not self._output.as_json:
            told = f"{run.done:,} of {run.begun.rows:,} rows, requests: {self._budget.spent:,}, differences: {run.found:,}"
            self._bar.update(self._task, completed=run.done, told=told, refresh=True)
        elif self._clock() - self._recorded_at >= RECORD_EVERY:
            self._recorded_at = self._clock()
            facts = {"rows": run.done, "of": run.begun.rows, "differences": run.found, "unchecked": run.unchecked}
            self._output.record({"event": "progress", **facts, "requests": self._budget.spent})

    def end(self) -> None:
        """End the display and give the terminal back."""
        self._bar.stop()


def tell_result(audit: Audit, differences: Iterator[Difference], *, allow_unknown: bool, output: Output) -> None:
    """Show the result of an audit, including the earlier runs that it continued."""
    counts = _counts(audit, allow_unknown=allow_unknown)
    allowed = audit.unknown_allowed + (audit.counts.get("unknown_to_ledger", 0) if allow_unknown else 0)
    behind = audit.counts.get("behind", 0)
    applied = sum(audit.applied.values())
    if output.as_json:
        for each in differences:
            output.record(_record(each))
        facts: dict[str, Any] = {"complete": audit.ended_at is not None, "rows": audit.rows, "agree": audit.agree}
        facts |= {"differences": counts, "behind": behind, "unchecked": audit.unchecked, "unknown_allowed": allowed}
        output.record({"event": "audit", **facts, "applied": applied, "requests": audit.requests})
        return
    _draw(audit, differences, counts, output)
    results = (
        (audit.agree, "agrees", "agree"),
        (sum(counts.values()), "difference", "differences"),
        (audit.unchecked, "could not be checked", "could not be checked"),
        (allowed, "grant unknown to the ledger, allowed", "grants unknown to the ledger, allowed"),
        (applied, "changed to what the vendor proves", "changed to what the vendor proves"),
    )
    told = [counted(number, one, many) for number, one, many in results if number]
    compared = f"{counted(audit.rows, 'row')} compared with {counted(audit.requests, 'request')}"
    output.say("; ".join([compared, *told]) + ".", "bold")
    if since := behind - audit.applied.get("behind", 0):
        rows = counted(since, "row has", "rows have")
        output.say(f"{rows} settled since; the next run records {'it' if since == 1 else 'them'}.")


def differences_left(audit: Audit, *, allow_unknown: bool) -> int:
    """Return how many differences an audit has found and not corrected."""
    counts = _counts(audit, allow_unknown=allow_unknown)
    return sum(count - audit.applied.get(kind, 0) for kind, count in counts.items())


def listed_kinds(*, allow_unknown: bool) -> list[str]:
    """Return the kinds of differences that are listed one by one."""
    return [kind for kind in DIFFERENCES if not (allow_unknown and kind == "unknown_to_ledger")]


def tell_changes(changes: Iterator[Difference], output: Output) -> None:
    """Show how balances have changed where nothing could be compared."""
    if output.as_json:
        for each in changes:
            output.record({"event": "change", "recipient": each.recipient, "change": int(each.vendor), "ledger": each.ledger})
        return
    rows = [(each.recipient, each.ledger, f"{int(each.vendor):+,}") for each in islice(changes, _MAX_SHOWN)]
    if rows:
        output.draw("how balances changed", ("recipient", "rows", "coins"), rows, right=("coins",))
        more = sum(1 for _ in changes)
        if more:
            output.say(f"and {more:,} more")


def tell_reasons(run: AuditRun, output: Output) -> None:
    """Say why rows could not be checked."""
    for why, rows in run.reasons.most_common(_MAX_SHOWN):
        if output.as_json:
            output.record({"event": "unchecked", "rows": rows, "reason": why})
        else:
            print_stderr(f"{counted(rows, 'row')} could not be checked: {why}", "yellow")


def _counts(audit: Audit, *, allow_unknown: bool) -> dict[str, int]:
    return {kind: audit.counts[kind] for kind in listed_kinds(allow_unknown=allow_unknown) if audit.counts.get(kind)}


def _record(each: Difference) -> dict[str, Any]:
    row = {"kind": each.kind, "campaign": each.campaign, "id": each.row_id, "recipient": each.recipient, "key": each.key}
    said = {"uid": each.uid, "ledger": each.ledger, "vendor": each.vendor, "applied": each.applied}
    return {"event": "difference", **row, **said}


def _draw(audit: Audit, differences: Iterator[Difference], counts: dict[str, int], output: Output) -> None:
    for each in islice(differences, _MAX_SHOWN):
        what = f"user {each.recipient}" if each.row_id is None else f"row {each.row_id} of {each.campaign}"
        _say(f"{what}: {each.kind}{', applied' if each.applied else ''}", output)
        uid = f"; uid{_NO_BREAK}{each.uid}" if each.uid else ""
        _say(f"ledger: {shown(each.kind, each.ledger)}; vendor: {shown(each.kind, each.vendor)}{uid}", output, indent="    ")
    if sum(counts.values()) > _MAX_SHOWN:
        _say(f"and {sum(counts.values()) - _MAX_SHOWN:,} more", output)
    for kind, count in counts.items():
        if audit.applied.get(kind, 0) < count:
            _say(f"{kind} ({count:,}): {DIFFERENCES[kind]}", output)


def _say(text: str, output: Output, *, indent: str = "") -> None:
    """Print a text wrapped to the terminal's width, without breaking a word or a number."""
    wide = output.console.width
    for line in wrap(text, wide, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False):
        output.lines(line.replace(_NO_BREAK, " "))
