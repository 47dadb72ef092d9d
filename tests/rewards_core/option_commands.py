"""Commands for tests of the kit that both command lines are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from payouts.cli.options import per_second
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import LogFormatOption
from rewards_core.cli.output import exit_on_value_error, fail
from rewards_core.validation import check_number

group = typer.Typer(no_args_is_help=True, help="Do some things.")


def do(
    size: Annotated[int, typer.Option(help="A whole number.", min=0)] = 1,
    share: Annotated[float, typer.Option(help="A number.")] = 0.5,
    rate: Annotated[float, typer.Option(help="A rate.", parser=per_second)] = 20.0,
    name: Annotated[str | None, typer.Option(help="A text.")] = None,
    form: Annotated[Literal["csv", "jsonl"] | None, typer.Option("--format", help="A word.")] = None,
    place: Annotated[Path, typer.Option("-p", "--place", help="A path.")] = Path("here"),
    tag: Annotated[list[str] | None, typer.Option(help="Texts.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A switch.")] = False,
    ask: Annotated[bool | None, typer.Option("--ask/--no-ask", help="A switch of three.")] = None,
    port: Annotated[int, typer.Option(help="A port.")] = 80,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Something of its own.")] = False,
) -> None:
    """Show what the options say."""
    options: dict[str, object] = {"size": size, "share": share, "rate": rate, "name": name, "format": form, "place": str(place)}
    options |= {"tag": tag or [], "quick": quick, "ask": ask, "port": port, "snapshot": snapshot}
    typer.echo(json.dumps(options))


@group.command("count")
def count(
    size: Annotated[int, typer.Option(help="A whole number.")] = 1,
    max_size: Annotated[float, typer.Option(help="A number.")] = 2.0,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Something else.")] = False,
) -> None:
    """Check a number as the libraries do."""
    with exit_on_value_error():
        check_number(max_size, "max_size", at_least=size)
    if snapshot:
        raise typer.BadParameter("--snapshot cannot be had today")
    fail(f"--size {size} is what it is", Exit.NOT_YET)


@group.command("rest")
def rest(depth: Annotated[int, typer.Option(help="A whole number.")] = 1) -> None:
    """Do nothing."""
    typer.echo(json.dumps({"depth": depth}))


@group.command("log")
def log(
    number: int,
    size: Annotated[int, typer.Option(help="A whole number.")] = 1,
    log_format: LogFormatOption = "text",
) -> None:
    """Take a number."""
    typer.echo(json.dumps({"number": number, "size": size, "log_format": log_format}))
