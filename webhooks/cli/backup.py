"""`webhook-listener backup`: copy the store while it is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail
from webhooks.cli.errors import run_command
from webhooks.cli.options import DEFAULT_STORE, StoreOption
from webhooks.cli.stores import check_file
from webhooks.store.sqlite import SQLiteStore


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write. An earlier copy is replaced; a store in use never is.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Copy the store to a file, while listeners keep running.

    Use this instead of `cp`, which would miss what is still in the store's write-ahead log. The copy appears only when it is
    complete.

    Example: webhook-listener backup /backups/inbox.db
    """
    output = Output(as_json)
    if store.database is not None:
        fail("A store in PostgreSQL is backed up with PostgreSQL: use pg_dump, or archive its log. See its manual.", Exit.USAGE)
    check_file(store)

    async def work() -> None:
        inbox = SQLiteStore(store.file or "")
        try:
            await inbox.back_up(file)
        finally:
            await inbox.aclose()
        size = file.stat().st_size
        output.record({"store": str(store), "file": str(file), "bytes": size}, text=f"{store} copied to {file} ({size:,} bytes)")

    run_command(work)
