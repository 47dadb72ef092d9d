"""The options that describe the file of rows, and what must hold before its rows are paid."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, BinaryIO, Literal

import typer
from attrs import frozen

from payouts.cli.options import DEFAULT_LEDGER, KindName, LedgerOption, granting
from payouts.source.files import form_of, is_piped
from payouts.source.layout import COLUMNS, Layout, check_delimiter, check_sheet, fits
from payouts.spelling import misspelled_amount
from payouts.vendors import ROW_TYPES
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import exit_on_value_error, fail, print_stderr
from rewards_core.validation import check_name

VendorName = Literal["original", "enkash"]


@frozen(kw_only=True)
class FileOptions:
    """The file, and where its rows go."""

    file: Annotated[str, typer.Argument(help="CSV, JSONL or Excel file; - for standard input.", metavar="FILE")]
    vendor: Annotated[VendorName, typer.Option(help="The vendor that pays.")]
    kind: Annotated[
        KindName, typer.Option(help="What each row is: allocation (tokens or coins), or mint (an asset of Original).")
    ] = "allocation"
    campaign: Annotated[str, typer.Option(help="Name of this payout; part of every key.")]
    ledger: LedgerOption = DEFAULT_LEDGER
    form: Annotated[
        Literal["csv", "jsonl", "workbook"] | None,
        typer.Option("--format", help="csv, jsonl or workbook (Excel).", show_default="from the file's name", metavar="FORMAT"),
    ] = None
    sheet: Annotated[
        str | None, typer.Option(help="Sheet of a workbook.", show_default="the only one with content", metavar="NAME")
    ] = None
    encoding: Annotated[
        Literal["utf-8", "utf-16", "windows-1252"] | None,
        typer.Option(help="utf-8, utf-16 or windows-1252, for CSV and JSONL.", show_default="detected", metavar="NAME"),
    ] = None
    delimiter: Annotated[str | None, typer.Option(help="Delimiter of CSV cells.", show_default="detected in the header")] = None
    id_column: Annotated[str | None, typer.Option(help="Column of the row's id.")] = None
    reward_uid_column: Annotated[str | None, typer.Option(help="Original: column of the reward.")] = None
    to_user_uid_column: Annotated[str | None, typer.Option(help="Original: column of the user.")] = None
    amount_column: Annotated[str | None, typer.Option(help="Original: column of the amount.")] = None
    nonce_column: Annotated[str | None, typer.Option(help="Original: column of the nonce, if there is one.")] = None
    user_uid_column: Annotated[str | None, typer.Option(help="Mint: column of the user.")] = None
    collection_uid_column: Annotated[str | None, typer.Option(help="Mint: column of the collection.")] = None
    name_column: Annotated[str | None, typer.Option(help="Mint: column of the asset's name.")] = None
    image_url_column: Annotated[str | None, typer.Option(help="Mint: column of the image's URL.")] = None
    asset_external_id_column: Annotated[str | None, typer.Option(help="Mint: column of the external id, if there is one.")] = None
    user_id_column: Annotated[str | None, typer.Option(help="EnKash: column of the user.")] = None
    event_column: Annotated[str | None, typer.Option(help="EnKash: column of the event.")] = None
    request_id_column: Annotated[str | None, typer.Option(help="EnKash: column of the request id, if there is one.")] = None
    ids_from_line: Annotated[
        bool, typer.Option("--ids-from-line", help="Use line numbers as ids; never insert or remove lines later.")
    ] = False

    @property
    def grants(self) -> str:
        """The vendor and what it grants, as the ledger names it."""
        return granting(self.vendor, self.kind) or self.vendor

    def check(self, *, snapshot: bool) -> None:
        """End the command if the campaign cannot have that name, or the vendor has no balances to be stored."""
        with exit_on_value_error():
            check_name(self.campaign, "--campaign")
        granting(self.vendor, self.kind)
        if self.vendor == "original" and snapshot:
            fail("--snapshot is for EnKash; payouts audit looks up what Original granted. Nothing was sent.", Exit.USAGE)

    def layout(self, stream: BinaryIO) -> Layout:
        """Return the layout of the file; end the command if the options contradict it or each other."""
        given = self._columns()
        if self.ids_from_line:
            if self.id_column is not None:
                told = "--ids-from-line and --id-column contradict each other. Use the column if its ids never change."
                fail(f"{told} Nothing was sent.", Exit.USAGE)
            print_stderr(
                "--ids-from-line: ids are line numbers; inserting or removing a line later would pay rows twice or never",
                "yellow",
            )
        for name, column in given.items():
            option = f"--{name.replace('_', '-')}-column"
            if name not in COLUMNS[self.grants]:
                fail(f"{option}: {self.grants} has no such column. Nothing was sent.", Exit.USAGE)
            if not column:
                fail(f"{option}: give the name of a column, not an empty text. Nothing was sent.", Exit.USAGE)
        start = stream.read(1024)
        stream.seek(0)
        form = self.form or form_of(self.file, start)
        for name in ("sheet", "delimiter", "encoding"):
            if getattr(self, name) is not None and not fits(name, form):
                what = "a workbook" if form == "workbook" else form.upper()
                fail(f"--{name}: {what} has none; leave it out, or give another --format. Nothing was sent.", Exit.USAGE)
        with exit_on_value_error():
            return Layout(
                vendor=self.grants,
                names=given,
                form=form,
                delimiter=None if self.delimiter is None else check_delimiter(self.delimiter, "--delimiter"),
                sheet=None if self.sheet is None else check_sheet(self.sheet, "--sheet"),
                encoding=self.encoding,
                ids_from_line=self.ids_from_line,
                piped=is_piped(self.file),
            )

    def _columns(self) -> Mapping[str, str]:
        names = {
            "id": self.id_column,
            "reward_uid": self.reward_uid_column,
            "to_user_uid": self.to_user_uid_column,
            "amount": self.amount_column,
            "nonce": self.nonce_column,
            "user_uid": self.user_uid_column,
            "collection_uid": self.collection_uid_column,
            "name": self.name_column,
            "image_url": self.image_url_column,
            "asset_external_id": self.asset_external_id_column,
            "user_id": self.user_id_column,
            "event": self.event_column,
            "request_id": self.request_id_column,
        }
        return {name: column for name, column in names.items() if column is not None}


@frozen(kw_only=True)
class CheckOptions:
    """What must hold before the rows are paid."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row; send nothing.")] = False
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask for confirmation. Rows that were paid before still need --repeats-of.")
    ] = False
    max_total: Annotated[
        str | None, typer.Option(help="Send nothing if the rows of one reward add up to more.", metavar="AMOUNT")
    ] = None
    repeats_of: Annotated[
        list[str] | None,
        typer.Option(
            help="Campaign whose rows may be paid again, or a pattern such as 'salary-*'. Repeat for more.",
            metavar="CAMPAIGN",
        ),
    ] = None
    all_errors: Annotated[bool, typer.Option("--all-errors", help="Show every mistake in the file separately.")] = False

    def total_for(self, vendor: str) -> Decimal | None:
        """Return the limit of a reward's total; end the command if it makes no sense."""
        if self.max_total is None:
            return None
        if vendor == "enkash":
            fail("--max-total is for Original; EnKash sets the coins of each event. Nothing was sent.", Exit.USAGE)
        if not ROW_TYPES[vendor].has_amounts:
            fail("--max-total is for tokens; an asset has no amount. Nothing was sent.", Exit.USAGE)
        fault = misspelled_amount(self.max_total)
        if fault is not None:
            fail(f"--max-total: {fault.message}. Nothing was sent.", Exit.USAGE)
        return Decimal(self.max_total)
