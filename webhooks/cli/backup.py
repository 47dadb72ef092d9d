"""`webhook-listener backup`: copy the store while it is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail
from webhooks.cli.ending import run
from webhooks.cli.options import DEFAULT_STORE, StoreOption
from webhooks.cli.stores import opened
from webhooks.store.sqlite import SQLiteStore


def backup(
    file: Annotated[Path, typer.Argument(help="Where the copy goes; replaced if it is there.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Copy the store into a file while listeners go on to write it.

    This is the only safe way to copy a store in use: `cp` would miss what stands in its log.

    Example: webhook-listener backup /backups/inbox.db
    """

    async def work() -> None:
        async with opened(store) as inbox:
            if not isinstance(inbox, SQLiteStore):
                fail("Only a SQLite store can be copied into a file.", Exit.USAGE)
            await inbox.back_up(file)
        size = file.stat().st_size
        Output(as_json).record({"file": str(file), "bytes": size}, text=f"{store} copied to {file} ({size:,} bytes)")

    run(work)
