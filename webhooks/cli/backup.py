"""`webhook-listener backup`: copy the store while it is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewards_core.cli.output import JsonOption, Output
from webhooks.cli.errors import run_command
from webhooks.cli.options import DEFAULT_STORE, StoreOption
from webhooks.cli.stores import existing_file
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

    async def work() -> None:
        inbox = SQLiteStore(existing_file(store))
        try:
            await inbox.back_up(file)
        finally:
            await inbox.aclose()
        size = file.stat().st_size
        output.record({"store": store, "file": str(file), "bytes": size}, text=f"{store} copied to {file} ({size:,} bytes)")

    run_command(work)
