"""A file of rewards in, every row settled exactly once, a report out."""

from typing import TYPE_CHECKING

from rewards_core.lazy_imports import lazy_names

if TYPE_CHECKING:
    from payouts.ledger.reader import Campaign, LedgerReader
    from payouts.ledger.sqlite import Ledger
    from payouts.progress import Progress
    from payouts.report.page import write_report
    from payouts.report.results import write_results
    from payouts.rows import EnkashRow, InvalidRow, OriginalRow, Row, derive_key
    from payouts.runner import PayoutRun, PayoutsStopped, RunOptions, run_payouts
    from payouts.source.files import read_rows
    from payouts.source.lines import FileRefused, Layout, Mistake, Note
    from payouts.states import (
        AuditNeeded,
        CampaignUnclear,
        Entry,
        KeyTaken,
        LedgerError,
        LedgerInUse,
        RowChanged,
        State,
        WrongWay,
    )

__all__ = [
    "AuditNeeded",
    "Campaign",
    "CampaignUnclear",
    "EnkashRow",
    "Entry",
    "FileRefused",
    "InvalidRow",
    "KeyTaken",
    "Layout",
    "Ledger",
    "LedgerError",
    "LedgerInUse",
    "LedgerReader",
    "Mistake",
    "Note",
    "OriginalRow",
    "PayoutRun",
    "PayoutsStopped",
    "Progress",
    "Row",
    "RowChanged",
    "RunOptions",
    "State",
    "WrongWay",
    "derive_key",
    "read_rows",
    "run_payouts",
    "write_report",
    "write_results",
]

if not TYPE_CHECKING:  # else a type checker would believe in every name
    __getattr__ = lazy_names(
        __name__,
        __all__,
        (
            *("states", "rows", "source.lines", "ledger.reader", "ledger.sqlite", "source.files", "progress"),
            *("report.page", "report.results", "runner"),
        ),
    )
