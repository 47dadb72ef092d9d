"""What a run does before it sends anything: read the whole file, compare it with the ledger, add it up and ask once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer
from attrs import frozen

from payouts import money
from payouts.audit.release import demand_newest
from payouts.cli.confirmation import somebody_is_there
from payouts.cli.connections import target_of
from payouts.cli.mistakes import Mistakes
from payouts.ledger.generation import is_paid_elsewhere
from payouts.ledger.reader import FIELDS, LedgerReader
from payouts.pipeline.preflight import Preflight, Repeat
from payouts.source.checks import Checked, check_rows
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, fail, tell
from rewards_core.text import counted

if TYPE_CHECKING:
    from decimal import Decimal

    from payouts.source.lines import Layout

_SHOWN = 20
_MOST_REPEATED = 5
_WHAT = {"original": "reward", "enkash": "event"}
_NAMES = {"original": "Original", "enkash": "EnKash"}


@frozen(kw_only=True)
class Terms:
    """What must hold before a file is paid.

    Attributes:
        vendor: Who pays.
        campaign: Its name.
        ledger: Where it is remembered.
        repeats_of: Names or patterns of campaigns whose rows may be paid again.
        max_total: The most that the rows of one reward may come to, None for no limit.
        yes: Whether nobody is asked.
        dry_run: Whether it is only to be checked.
        all_errors: Whether each mistake is told by itself.
    """

    vendor: str
    campaign: str
    ledger: Path
    repeats_of: Sequence[str] = ()
    max_total: Decimal | None = None
    yes: bool = False
    dry_run: bool = False
    all_errors: bool = False


@frozen(kw_only=True)
class Prepared:
    """A file that may be paid.

    Attributes:
        checked: What it holds.
        repeats: The ledger's numbers of the campaigns that it repeats, as somebody has allowed.
    """

    checked: Checked
    repeats: Sequence[int] = ()


def prepare(stream: BinaryIO, layout: Layout, terms: Terms, output: Output, *, before_asking: Callable[[], None]) -> Prepared:
    """Look over the whole file; end the command if anything is wrong, or if a person does not agree to it.

    Args:
        stream: The file.
        layout: How to read it.
        terms: What must hold.
        output: Where it is told.
        before_asking: Called once the file is known to be good, unless it is a dry run; ends the command where it could not pay.

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
            checked = check_rows(stream, layout, on_mistake=mistakes.add, judge=preflight)
        for note in checked.notes:
            tell(note.message, "yellow")
        if checked.mistakes:
            mistakes.tell()
            fail(
                f"{counted(checked.mistakes, 'mistake')}. Nothing was sent. Fix the file and run the same command again.",
                Exit.USAGE,
            )
        if preflight is not None:
            _refuse_keys(preflight, terms, output)
        known = 0 if preflight is None else preflight.known
        settled = 0 if preflight is None else preflight.settled
        _check_total(checked, terms)
        if not terms.dry_run:
            before_asking()
            _warn_of_another_ledger(preflight, terms)
        _show(checked, terms, output, preflight)
        repeats: list[int] = []
        if preflight is not None:
            _settle_repeats(preflight, terms, output)
            repeats = preflight.repeated()
    if not terms.dry_run and known < checked.rows:
        _confirm(checked.rows - known, known - settled, terms)
    return Prepared(checked=checked, repeats=repeats)


def _preflight(terms: Terms, stack: ExitStack) -> Preflight | None:
    """Return what compares a row with the ledger, None if there is none yet."""
    if not is_begun(terms.ledger):
        _check_patterns((), terms)
        return None
    demand_newest(terms.ledger)
    reader = stack.enter_context(LedgerReader(terms.ledger))
    _check_patterns([each.name for each in reader.campaigns() if each.vendor == terms.vendor], terms)
    return stack.enter_context(Preflight(reader, terms.vendor, terms.campaign, terms.repeats_of))


def _warn_of_another_ledger(preflight: Preflight | None, terms: Terms) -> None:
    """Warn where coins may be paid twice because this is not the ledger that was meant; Original knows the keys of the other."""
    if terms.vendor != "enkash" or (preflight is not None and preflight.campaign is not None):
        return
    identity = None if preflight is None else preflight.identity
    if is_paid_elsewhere(identity, terms.vendor, terms.campaign):
        told = f"Another ledger has paid a campaign {terms.campaign} before, and {terms.ledger} does not know it"
        tell(f"{told}. EnKash may pay its rows a second time: check --ledger before you go on.", "bold yellow")


def is_begun(ledger: Path) -> bool:
    """Return whether there is a ledger."""
    return ledger.is_file() and ledger.stat().st_size > 0


def _check_patterns(names: Sequence[str], terms: Terms) -> None:
    """Refuse the name of a campaign that is not there; a pattern may match nothing, as a payroll's does in its first month."""
    for pattern in terms.repeats_of:
        if pattern not in names and not any(mark in pattern for mark in "*?["):
            there = f"It has {', '.join(names[:10])}." if names else "It has none."
            fail(f"--repeats-of {pattern}: {terms.ledger} has no such campaign. {there} Nothing was sent.", Exit.USAGE)


def _check_total(checked: Checked, terms: Terms) -> None:
    if terms.max_total is None:
        return
    if sum(checked.counts.values()) < checked.rows:
        told = f"The file has more than {len(checked.counts):,} rewards, too many for --max-total to check"
        fail(f"{told}. Nothing was sent. Split the file.", Exit.USAGE)
    for item, total in checked.totals.items():
        if total > terms.max_total:
            told = (
                f"The file asks for {money.shown(total)} of reward {item}, more than --max-total {money.shown(terms.max_total)}"
            )
            fail(f"{told}. Nothing was sent.", Exit.USAGE)


def _show(checked: Checked, terms: Terms, output: Output, preflight: Preflight | None) -> None:
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
    output.say(f"{_rows(checked.rows)} for {counted(checked.users, 'user')}. This run has sent nothing yet.", "bold")
    old = f": {checked.rows - known:,} new, {known - settled:,} to resume, {settled:,} settled before" if known else ""
    output.say(f"campaign  {terms.campaign}{old}")
    output.say(f"vendor    {_NAMES[terms.vendor]}" + (f" at {target}" if target else ""))
    rows = [
        (item, f"{count:,}", money.shown(checked.totals[item]) if item in checked.totals else "")
        for item, count in list(checked.counts.items())[:_SHOWN]
    ]
    if terms.vendor == "enkash":
        output.draw("", ("event", "rows"), [row[:2] for row in rows], right=("rows",))
    else:
        output.draw("", ("reward", "rows", "total"), rows, right=("rows", "total"))
    for item, (count, total) in (
        list(preflight.new.items())[:_SHOWN] if preflight is not None and 0 < known < checked.rows else ()
    ):
        output.say(f"new       {_rows(count)} of {_WHAT[terms.vendor]} {item}" + (f", {money.shown(total)}" if total else ""))
    if len(checked.counts) > _SHOWN:
        output.say(f"and {len(checked.counts) - _SHOWN:,} more {_WHAT[terms.vendor]}s")


def _refuse_keys(preflight: Preflight, terms: Terms, output: Output) -> None:
    """End the command if the file brings keys of other campaigns; nobody can agree to that."""
    found = preflight.keys_elsewhere()
    for each in found:
        whole = each.rows == preflight.rows
        keys = f"All {each.rows:,} keys" if whole and each.rows > 1 else counted(each.rows, "key")
        hint = f"Did you mean --campaign {each.campaign}?" if whole else "Those rows are in that campaign already: remove them."
        told = f"{keys} {_verb('belong', each.rows)} to campaign {each.campaign} (the first on line {each.line}). {hint}"
        place = {"line": each.line, "name": FIELDS[terms.vendor][3], "count": each.rows, "campaign": each.campaign}
        output.record({"event": "mistake", "kind": "key_of_another_campaign", **place, "message": told}, text=told)
    if found:
        fail("Nothing was sent.", Exit.USAGE)


def _settle_repeats(preflight: Preflight, terms: Terms, output: Output) -> None:
    """Let a person type the names of the campaigns that are repeated, or end the command."""
    repeats = preflight.repeats()
    for repeat in repeats if output.as_json else repeats[:_MOST_REPEATED]:
        name, told = repeat.campaign.name, _told(repeat, preflight, terms)
        output.record(
            {"event": "repeats", "campaign": name, "rows": repeat.rows, "line": repeat.line, "message": told}, text=told
        )
    if len(repeats) > _MOST_REPEATED:
        fail(f"{len(repeats):,} campaigns are repeated. Nothing was sent. Use a pattern: --repeats-of 'salary-*'", Exit.USAGE)
    if repeats and (terms.dry_run or not somebody_is_there()):
        names = " ".join(f"--repeats-of {repeat.campaign.name}" for repeat in repeats)
        fail(f"Nothing was sent. To pay them again on purpose, add {names}", Exit.USAGE)
    for repeat in repeats:
        name = repeat.campaign.name
        if _typed(f"To pay them again on purpose, type {name}") != name:
            fail("Nothing was sent.", Exit.REFUSED)
        preflight.allowed.add(repeat.campaign.number)


def _told(repeat: Repeat, preflight: Preflight, terms: Terms) -> str:
    """Return what a repeat is, and what may have been meant."""
    what = "recipient and event" if terms.vendor == "enkash" else "recipient, reward and amount"
    where = f"(the first on line {repeat.line})"
    if repeat.itself:
        told = (
            f"{_rows(repeat.rows)} with a new id {_verb('repeat', repeat.rows)} {what} of rows already in this campaign {where}."
        )
        return f"{told} If they are the same grants, give them their old ids again."
    name = repeat.campaign.name
    if repeat.lost:
        told = f"Campaign {name} was paid from a newer copy of this ledger, which has lost its rows: these rows may repeat them."
        return f"{told} Did you mean --campaign {name}?"
    every = f"All {_rows(repeat.rows)}" if repeat.rows == preflight.rows > 1 else _rows(repeat.rows)
    told = f"{every} {_verb('repeat', repeat.rows)} {what} of rows that campaign {name} has paid or may have paid {where}."
    return told if preflight.campaign is not None else f"{told} Did you mean --campaign {name}?"


def _confirm(fresh: int, unsettled: int, terms: Terms) -> None:
    if terms.yes:
        return
    if not somebody_is_there():
        fail("Nobody is at a terminal to confirm this. Nothing was sent. Add --yes to pay without being asked.", Exit.USAGE)
    resumed = f" and resume {unsettled:,}" if unsettled else ""
    if _typed(f"Pay {'this row' if fresh == 1 else f'these {_rows(fresh)}'}{resumed}? Type yes").casefold() not in {"y", "yes"}:
        fail("Nothing was sent.", Exit.REFUSED)


def _typed(question: str) -> str:
    """Return what a person answers, asked beside the results."""
    return str(typer.prompt(question, default="", show_default=False, err=True)).strip()


def _rows(count: int) -> str:
    return counted(count, "row")


def _verb(word: str, count: int) -> str:
    return f"{word}s" if count == 1 else word
