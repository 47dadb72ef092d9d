"""Pay a file of rewards: every row is settled exactly once, and a report says how.

`read_rows` reads a file, `Ledger` keeps the state of every row on disk, and `run_payouts` pays the rows; after an interruption,
run it again. With `PostgresLedger`, workers on any number of machines pay one campaign by `work_payouts`, and `pay_row` pays
a single row. `LedgerReader`, `write_report` and `write_results` show what became of the rows.
"""

from typing import TYPE_CHECKING

from rewards_core.lazy_imports import lazy_names

if TYPE_CHECKING:
    from payouts.keys import derive_key
    from payouts.ledger.base import RunLedger
    from payouts.ledger.postgres import PostgresLedger
    from payouts.ledger.reader import Campaign, LedgerReader
    from payouts.ledger.sqlite import Ledger
    from payouts.payer import Balances, Held, Lookups, Payer
    from payouts.progress import Progress
    from payouts.report.page import write_report
    from payouts.report.results import write_results
    from payouts.rows import InvalidRow, Row
    from payouts.runner import PayoutRun, PayoutsStopped, RunOptions, pay_row, run_payouts, work_payouts
    from payouts.source.files import read_rows
    from payouts.source.layout import Layout
    from payouts.source.mistakes import FileRefused, Mistake, Note
    from payouts.states import (
        AuditNeeded,
        CampaignStopped,
        CampaignUnclear,
        Entry,
        InvalidTransition,
        KeyTaken,
        LeaseLost,
        LedgerError,
        LedgerInUse,
        LedgerUnavailable,
        RowChanged,
        State,
    )
    from payouts.vendors import EnkashRow, MintRow, OriginalRow

__all__ = [
    "AuditNeeded",
    "Balances",
    "Campaign",
    "CampaignStopped",
    "CampaignUnclear",
    "EnkashRow",
    "Entry",
    "FileRefused",
    "Held",
    "InvalidRow",
    "InvalidTransition",
    "KeyTaken",
    "Layout",
    "LeaseLost",
    "Ledger",
    "LedgerError",
    "LedgerInUse",
    "LedgerReader",
    "LedgerUnavailable",
    "Lookups",
    "MintRow",
    "Mistake",
    "Note",
    "OriginalRow",
    "Payer",
    "PayoutRun",
    "PayoutsStopped",
    "PostgresLedger",
    "Progress",
    "Row",
    "RowChanged",
    "RunLedger",
    "RunOptions",
    "State",
    "derive_key",
    "pay_row",
    "read_rows",
    "run_payouts",
    "work_payouts",
    "write_report",
    "write_results",
]

if not TYPE_CHECKING:  # else a type checker would believe in every name
    __getattr__ = lazy_names(
        __name__,
        __all__,
        (
            *("states", "rows", "keys", "vendors", "payer", "source.layout", "source.mistakes", "source.files"),
            *("ledger.base", "ledger.reader", "ledger.sqlite", "progress"),
            *("report.page", "report.results", "runner", "ledger.postgres"),
        ),
    )
