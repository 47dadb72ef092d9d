"""`webhook-listener move`: take a whole store to another place, such as from a file to PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, option_parser
from webhooks.cli.errors import run_command
from webhooks.cli.settings import store_url
from webhooks.store.transfer import Mark, Move, undo
from webhooks.store.urls import StoreUrl

if TYPE_CHECKING:
    from webhooks.store.transfer import Mover

_NOUNS = {
    "subscription": "handlers",
    "identity": "identities",
    "event": "events",
    "outcome": "outcomes",
    "conflict": "conflicts",
    "pending": "pending operations",
}
_INTERRUPTED = "Interrupted. Both stores refuse other processes until the move ends: run the same command again, or --undo."


def move(
    source: Annotated[
        StoreUrl,
        typer.Option("--from", help="The store to move.", metavar="URL", parser=option_parser(store_url, "--store")),
    ],
    target: Annotated[
        StoreUrl | None,
        typer.Option("--to", help="The new store; it must be empty.", metavar="URL", parser=option_parser(store_url, "--store")),
    ] = None,
    give_up: Annotated[
        bool,
        typer.Option(
            "--undo", help="Let the store of --from be used again, after an unwanted move. The other store is not deleted."
        ),
    ] = False,
    as_json: JsonOption = None,
) -> None:
    """Move a whole store: events with their ids, jobs, dead letters, identities, outcomes and pending operations.

    Stop every process that uses either store first; from then on both refuse other processes. When the move has ended, start
    them with the new store. The old one is not changed, can be read, and keeps refusing to be used, so that no process stores
    events in it by mistake. Delete it when you no longer want it.

    A move that was interrupted continues where it stopped when you run the same command again.

    For example:

      webhook-listener move --from sqlite:///inbox.db --to postgresql://db/events

      webhook-listener move --from sqlite:///inbox.db --undo
    """
    output = Output(as_json)
    if (target is None) != give_up:
        raise typer.BadParameter("give --to URL to move a store, or --undo to give a move up.")
    _check(source, target)

    async def work() -> None:
        if not await source.exists():
            fail(f"There is no store at {source}. Nothing was changed.", Exit.UNAVAILABLE)
        async with _mover(source) as here:
            if target is None:
                _say_undone(output, source, await undo(here))
                return
            async with _mover(target) as there:
                counts = await Move(source=here, target=there, names=(_name(source), _name(target))).run(progress)
        told = ", ".join(f"{noun}: {counts[name]:,}" for name, noun in _NOUNS.items())
        output.record(
            {"from": str(source), "to": str(target), "moved": dict(counts)},
            text=f"{source} was moved to {target} ({told}). Use the new one everywhere; the old one refuses to be used.",
        )

    def progress(table: str, moved: int, total: int) -> None:
        text = f"{_NOUNS[table]}: {moved:,} of {total:,}"
        output.record({"table": table, "moved": moved, "of": total}, text=text)

    run_command(work, interrupted=_INTERRUPTED)


def _check(source: StoreUrl, target: StoreUrl | None) -> None:
    if source.in_memory or (target is not None and target.in_memory):
        fail("A memory: store is visible to its own process only and cannot be moved. Nothing was changed.", Exit.USAGE)
    same_file = target is not None and None not in {source.file, target.file} and _path(source) == _path(target)
    if same_file or source == target:
        fail("--to: this is the store of --from. Nothing was changed.", Exit.USAGE)


def _path(url: StoreUrl) -> Path | None:
    return None if url.file is None else url.file.resolve()


def _name(url: StoreUrl) -> str:
    """Return how the other store calls this one, in whatever folder that is read."""
    return str(url) if url.file is None else f"sqlite:///{url.file.absolute()}"


@asynccontextmanager
async def _mover(url: StoreUrl) -> AsyncIterator[Mover]:
    mover = mover_of(url)
    try:
        yield mover
    finally:
        await mover.aclose()


def mover_of(url: StoreUrl) -> Mover:
    """Return what reads or fills a store that is not in memory; its file or database is opened when it is first used."""
    if url.database is not None:
        from webhooks.store.postgres_transfer import DatabaseMover  # noqa: PLC0415 - an extra

        return DatabaseMover(url.database, str(url))
    from webhooks.store.sqlite_transfer import FileMover  # noqa: PLC0415 - import only what is needed

    return FileMover(url.file or Path())


def _say_undone(output: Output, source: StoreUrl, mark: Mark | None) -> None:
    if mark is None:
        text = f"{source} was not moved. Nothing was changed."
    elif mark.done:
        text = f"{source} may be used again. It has nothing of what {mark.other} has stored since: never use both."
    else:
        text = f"{source} may be used again. Delete what has arrived in {mark.other}: it is not complete and refuses to be used."
    output.record({"from": str(source), "undone": mark is not None, "to": None if mark is None else mark.other}, text=text)
