"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

LedgerOption = Annotated[Path, typer.Option(help="The file that remembers every row.")]
CampaignOption = Annotated[str | None, typer.Option(help="Which campaign; not needed where the ledger has one only.")]
VendorOption = Annotated[
    Literal["original", "enkash"] | None, typer.Option(help="Which vendor's, where two campaigns share a name.")
]
