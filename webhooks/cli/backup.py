"""`webhook-listener backup`: copy the store while it is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewards_core.cli.output import JsonOption, Output
from webhooks.cli.ending import run
from webhooks.cli.options import DEFAULT_STORE, StoreOption
from webhooks.cli.stores import path_of
from webhooks.store.sqlite import SQLiteStore


def backup(
    file: Annotated[Path, typer.Argument(help="Where the copy goes; an earlier copy is replaced, a store never.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Copy the store into a file while listeners go on to write it.

    This is the only safe way to copy a store in use: `cp` would miss what stands in its log. The file is complete or not there.

    Example: webhook-listener backup /backups/inbox.db
    """
    output = Output(as_json)

    async def work() -> None:
        inbox = SQLiteStore(path_of(store))
        try:
            await inbox.back_up(file)
        finally:
            await inbox.aclose()
        size = file.stat().st_size
        output.record({"store": store, "file": str(file), "bytes": size}, text=f"{store} copied to {file} ({size:,} bytes)")

    run(work)
