"""What `payouts run` does before it sends anything: check the file, compare it with the ledger, show it and ask once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

import typer
from attrs import Factory, define, frozen

from payouts import money
from payouts.cli.confirmation import MAX_SHOWN, has_terminal
from payouts.cli.connections import target_of
from payouts.ledger.fleet_note import is_paid_elsewhere
from payouts.ledger.place import LedgerPlace
from payouts.pipeline.preflight import Preflight, Repeat
from payouts.source.checks import FileSummary, check_rows
from payouts.source.mistakes import Mistake, quoted_sheet
from payouts.vendors import FIELDS, ROW_TYPES
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, fail, print_stderr
from rewards_core.text import counted

if TYPE_CHECKING:
    from decimal import Decimal

    from payouts.source.layout import Layout

_MAX_REPEATED = 5
_MAX_PLACES = 10
_MAX_LINES = 3
_NAMES = {"original": "Original", "enkash": "EnKash", "original-mint": "Original, which mints assets"}


@frozen(kw_only=True)
class Terms:
    """What must hold before a file is paid."""

    vendor: str
    campaign: str
    ledger: LedgerPlace
    repeats_of: Sequence[str] = ()
    max_total: Decimal | None = None
    yes: bool = False
    dry_run: bool = False
    all_errors: bool = False


@frozen(kw_only=True)
class PreparedFile:
    """A file that may be paid."""

    checked: FileSummary
    repeats: Sequence[int] = ()


def prepare(stream: BinaryIO, layout: Layout, terms: Terms, output: Output, *, before_asking: Callable[[], None]) -> PreparedFile:
    """Check the whole file; end the command if anything is wrong or a person refuses.

    Raises:
        AuditNeeded: the ledger may be an older copy.
        LedgerError: the ledger cannot be read.
    """
    mistakes = Mistakes(output, all_errors=terms.all_errors)
    with ExitStack() as stack:
        preflight = _preflight(terms, stack)
        with ExitStack() as showing:
            if not output.as_json:
                showing.enter_context(output.console.status("Checking every row; nothing is sent yet"))
            checked = check_rows(stream, layout, on_mistake=mistakes.add, preflight=preflight)
        for note in checked.notes:
            print_stderr(note.message, "yellow")
        if checked.mistakes:
            mistakes.tell()
            found = counted(checked.mistakes, "mistake")
            fail(f"{found}. Nothing was sent. Fix the file, or give an option that is named above, and run again.", Exit.USAGE)
        if preflight is not None:
            _refuse_keys(preflight, layout.line_word, terms, output)
        known, settled = (0, 0) if preflight is None else (preflight.known, preflight.settled)
        _check_total(checked, terms)
        if not terms.dry_run:
            before_asking()
            _warn_of_another_ledger(preflight, terms)
        _show(checked, terms, output, preflight)
        repeats: list[int] = []
        if preflight is not None:
            _settle_repeats(preflight, layout.line_word, terms, output)
            repeats = preflight.repeated()
    if not terms.dry_run and known < checked.rows:
        _confirm(checked.rows - known, known - settled, terms)
    return PreparedFile(checked=checked, repeats=repeats)


def _preflight(terms: Terms, stack: ExitStack) -> Preflight | None:
    """Return the comparison of rows with the ledger, None if there is no ledger yet."""
    if not terms.ledger.exists():
        _check_patterns((), terms)
        return None
    terms.ledger.check_newest()
    reader = stack.enter_context(terms.ledger.reader())
    _check_patterns([each.name for each in reader.campaigns() if each.vendor == terms.vendor], terms)
    return stack.enter_context(Preflight(reader, terms.vendor, terms.campaign, terms.repeats_of))


def _warn_of_another_ledger(preflight: Preflight | None, terms: Terms) -> None:
    """Warn if rows may be paid twice because the wrong ledger was named; of tokens, Original knows the keys of any ledger."""
    if terms.vendor == "original" or (preflight is not None and preflight.campaign is not None):
        return
    identity = None if preflight is None else preflight.identity
    if is_paid_elsewhere(identity, terms.vendor, terms.campaign):
        told = f"A campaign {terms.campaign} was paid from another ledger before; {terms.ledger} does not know it"
        again = "EnKash may pay its rows" if terms.vendor == "enkash" else "Original may mint its rows"
        print_stderr(f"{told}. {again} a second time: check --ledger before you continue.", "bold yellow")


def _check_patterns(names: Sequence[str], terms: Terms) -> None:
    """Refuse an unknown campaign; a pattern may match nothing, as that of a payroll in its first month."""
    for pattern in terms.repeats_of:
        if pattern not in names and not any(mark in pattern for mark in "*?["):
            there = f"It has {', '.join(names[:10])}." if names else "It has none."
            fail(f"--repeats-of {pattern}: {terms.ledger} has no such campaign. {there} Nothing was sent.", Exit.USAGE)


def _check_total(checked: FileSummary, terms: Terms) -> None:
    if terms.max_total is None:
        return
    if sum(checked.counts.values()) < checked.rows:
        told = f"The file has more than {len(checked.counts):,} rewards, too many for --max-total to check"
        fail(f"{told}. Nothing was sent. Split the file.", Exit.USAGE)
    limit = money.shown(terms.max_total)
    for item, total in checked.totals.items():
        if total > terms.max_total:
            told = f"The rows of reward {item} add up to {money.shown(total)}, more than --max-total {limit}"
            fail(f"{told}. Nothing was sent.", Exit.USAGE)


def _show(checked: FileSummary, terms: Terms, output: Output, preflight: Preflight | None) -> None:
    target = target_of(terms.vendor)
    known, settled = (0, 0) if preflight is None else (preflight.known, preflight.settled)
    if output.as_json:
        output.record(
            {
                "event": "checked",
                "campaign": terms.campaign,
                "vendor": terms.vendor,
                "target": target,
                "rows": checked.rows,
                "known": known,
                "settled": settled,
                "users": checked.users,
                "counts": checked.counts,
                "totals": {item: money.text(total) for item, total in checked.totals.items()},
                "notes": [{"kind": note.kind, "message": note.message} for note in checked.notes],
            }
        )
        return
    row_type = ROW_TYPES[terms.vendor]
    output.say(f"{_rows(checked.rows)} for {counted(checked.users, 'user')}. This run has sent nothing yet.", "bold")
    old = f": {checked.rows - known:,} new, {known - settled:,} to resume, {settled:,} settled before" if known else ""
    output.say(f"campaign  {terms.campaign}{old}")
    output.say(f"vendor    {_NAMES[terms.vendor]}" + (f" at {target}" if target else ""))
    rows = [
        (item, f"{count:,}", money.shown(checked.totals[item]) if item in checked.totals else "")
        for item, count in list(checked.counts.items())[:MAX_SHOWN]
    ]
    columns = (row_type.item_word, "rows", *(["total"] if row_type.has_amounts else []))
    output.draw("", columns, [row[: len(columns)] for row in rows], right=("rows", "total"))
    if preflight is not None and 0 < known < checked.rows:
        for item, (count, total) in list(preflight.new.items())[:MAX_SHOWN]:
            output.say(f"new       {_rows(count)} of {row_type.item_word} {item}" + (f", {money.shown(total)}" if total else ""))
    if len(checked.counts) > MAX_SHOWN:
        output.say(f"and {len(checked.counts) - MAX_SHOWN:,} more {row_type.item_word}s")


def _refuse_keys(preflight: Preflight, line_word: str, terms: Terms, output: Output) -> None:
    """End the command if the file contains keys of other campaigns; no confirmation can allow that."""
    found = preflight.keys_elsewhere()
    for each in found:
        whole = each.rows == preflight.rows
        keys = f"All {each.rows:,} keys" if whole and each.rows > 1 else counted(each.rows, "key")
        hint = f"Did you mean --campaign {each.campaign}?" if whole else "Those rows are already in that campaign: remove them."
        told = f"{keys} {_verb('belong', each.rows)} to campaign {each.campaign} (the first on {line_word} {each.line}). {hint}"
        place = {"line": each.line, "name": FIELDS[terms.vendor][3], "count": each.rows, "campaign": each.campaign}
        output.record({"event": "mistake", "kind": "key_of_another_campaign", **place, "message": told}, text=told)
    if found:
        fail("Nothing was sent.", Exit.USAGE)


def _settle_repeats(preflight: Preflight, line_word: str, terms: Terms, output: Output) -> None:
    """Let a person type the names of the campaigns that are repeated, or end the command."""
    repeats = preflight.repeats()
    for repeat in repeats if output.as_json else repeats[:_MAX_REPEATED]:
        name, told = repeat.campaign.name, _describe(repeat, preflight, line_word, terms)
        facts = {"event": "repeats", "campaign": name, "rows": repeat.rows, "line": repeat.line, "message": told}
        output.record(facts, text=told)
    if len(repeats) > _MAX_REPEATED:
        fail(f"{len(repeats):,} campaigns are repeated. Nothing was sent. Use a pattern: --repeats-of 'salary-*'", Exit.USAGE)
    if repeats and (terms.dry_run or not has_terminal()):
        names = " ".join(f"--repeats-of {repeat.campaign.name}" for repeat in repeats)
        fail(f"Nothing was sent. To pay them again on purpose, add {names}", Exit.USAGE)
    for repeat in repeats:
        name = repeat.campaign.name
        if _ask(f"To pay them again on purpose, type {name}") != name:
            fail("Nothing was sent.", Exit.REFUSED)
        preflight.allowed.add(repeat.campaign.number)


def _describe(repeat: Repeat, preflight: Preflight, line_word: str, terms: Terms) -> str:
    """Return what a repeat is, and what may have been intended."""
    what = ROW_TYPES[terms.vendor].sameness
    where = f"(the first on {line_word} {repeat.line})"
    repeats = _verb("repeat", repeat.rows)
    if repeat.itself:
        told = f"{_rows(repeat.rows)} with a new id {repeats} {what} of rows already in this campaign {where}."
        return f"{told} If they are the same grants, give them their old ids again."
    name = repeat.campaign.name
    if repeat.lost:
        told = f"Campaign {name} was paid from a newer copy of this ledger, which has lost its rows: these rows may repeat them."
        return f"{told} Did you mean --campaign {name}?"
    every = f"All {_rows(repeat.rows)}" if repeat.rows == preflight.rows > 1 else _rows(repeat.rows)
    told = f"{every} {repeats} {what} of rows that campaign {name} has paid or may have paid {where}."
    return told if preflight.campaign is not None else f"{told} Did you mean --campaign {name}?"


def _confirm(fresh: int, unsettled: int, terms: Terms) -> None:
    if terms.yes:
        return
    if not has_terminal():
        fail("There is no terminal to ask for confirmation. Nothing was sent. Add --yes to skip the question.", Exit.USAGE)
    resumed = f" and resume {unsettled:,}" if unsettled else ""
    verb = "Mint" if ROW_TYPES[terms.vendor].done_word == "minted" else "Pay"
    if _ask(f"{verb} {'this row' if fresh == 1 else f'these {_rows(fresh)}'}{resumed}? Type yes").casefold() not in {"y", "yes"}:
        fail("Nothing was sent.", Exit.REFUSED)


def _ask(question: str) -> str:
    """Return a person's answer; the question goes to standard error."""
    return str(typer.prompt(question, default="", show_default=False, err=True)).strip()


def _rows(count: int) -> str:
    return counted(count, "row")


def _verb(word: str, count: int) -> str:
    return f"{word}s" if count == 1 else word


@define
class _Group:
    first: Mistake
    count: int = 0
    places: list[Mistake] = Factory(list)


class Mistakes:
    """Collect the mistakes of a file in bounded memory and show them."""

    def __init__(self, output: Output, *, all_errors: bool) -> None:
        self._output = output
        self._all_errors = all_errors
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, mistake: Mistake) -> None:
        """Record one mistake."""
        if self._all_errors:
            self._record(_Group(mistake, 1, [mistake]), str(mistake))
            return
        group = self._groups.setdefault((mistake.kind, mistake.name), _Group(mistake))
        group.count += 1
        if len(group.places) < _MAX_PLACES:
            group.places.append(mistake)

    def tell(self) -> None:
        """Show what was collected; to people at most 20 lines."""
        groups = list(self._groups.values())
        told = groups if self._output.as_json else groups[:MAX_SHOWN]
        for group in told:
            self._record(group, _text(group))
        more = len(groups) - len(told)
        if more:
            self._output.say(f"and {counted(more, 'more kind', 'more kinds')} of mistake; --all-errors shows everything")

    def _record(self, group: _Group, text: str) -> None:
        first = group.first
        place: dict[str, object] = {"line": first.line, "column": first.column, "name": first.name}
        if first.sheet:
            place |= {"sheet": first.sheet, "cell": first.cell}
        places = [(each.line, each.name) for each in group.places]
        told = {"message": first.message, "count": group.count, "places": places}
        self._output.record({"event": "mistake", "kind": first.kind, **place, **told}, text=text)


def _text(group: _Group) -> str:
    if group.count == 1:
        return str(group.first)
    first, sheet = group.first, group.first.sheet
    *others, last = [each.cell if sheet else str(each.line) for each in group.places[:_MAX_LINES]]
    more = group.count - len(others) - 1
    listed = f"{', '.join((*others, last))} and {more:,} more" if more else f"{', '.join(others)} and {last}"
    named = f" ({first.name})" if first.name else ""
    return f"{quoted_sheet(sheet)}!{listed}{named}: {first.message}" if sheet else f"lines {listed}{named}: {first.message}"
