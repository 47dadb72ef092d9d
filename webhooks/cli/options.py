"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from original_async.settings import WEBHOOK_KEYS, app_uid_from
from rewards_core.cli.output import keys_option
from webhooks.cli.sources import SourceSpec, parse_source

StoreOption = Annotated[
    str,
    typer.Option("--store", envvar="WEBHOOK_STORE", help="Where events are kept: sqlite:///FILE (sqlite:////FILE if absolute)."),
]
SocketOption = Annotated[
    Path | None,
    typer.Option("--admin-socket", help="The listener's admin socket, if it is not beside the store's file."),
]
KeysOption = Annotated[Path | None, keys_option(WEBHOOK_KEYS)]
SourceOption = Annotated[
    list[str] | None,
    typer.Option("--source", help="PATH[,scope=S][,app=UID][,keys=FILE]; give it again for each further source."),
]
ForwardOption = Annotated[
    str | None,
    typer.Option(
        "--forward-to", envvar="WEBHOOK_FORWARD_TO", help="Hand deliveries on to this URL, unchanged, until it takes them."
    ),
]
DEFAULT_STORE = "sqlite:///inbox.db"
LARGEST_ID = 10**15


def sources_of(given: list[str] | None, keys_file: Path | None) -> list[SourceSpec]:
    """Return the sources a command means; without `--source` one, at the default path.

    Raises:
        typer.BadParameter: one of them is none, or `ORIGINAL_APP_UID` is no uid.
    """
    try:
        if not given:
            return [SourceSpec(app_uid=app_uid_from(os.environ), keys_file=keys_file)]
        specs = [parse_source(text) for text in given]
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None
    return [
        SourceSpec(path=spec.path, scope=spec.scope, app_uid=spec.app_uid, keys_file=spec.keys_file or keys_file)
        for spec in specs
    ]
