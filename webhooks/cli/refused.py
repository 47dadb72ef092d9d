"""`webhook-listener refused`: list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import aiohttp
import typer
from attrs import asdict

from rewards_core.base_urls import check_base_url
from rewards_core.cli.columns import Column
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, exit_on_value_error, fail
from rewards_core.cli.program import command_group
from rewards_core.text import counted, listed, one_line
from webhooks.cli.errors import CannotStart, run_command
from webhooks.cli.lists import iso_time, time_column, write_list
from webhooks.cli.refusal_lists import from_json
from webhooks.cli.settings import admin_token
from webhooks.refusals import MAX_KEPT, Refusal

if TYPE_CHECKING:
    from rewards_core.secrets import Secret

DEFAULT_ADMIN = "http://127.0.0.1:8481"
_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_MAX_REPLY = 4 << 20
_COLUMNS = (
    time_column("last", lambda each: each.last_at),
    Column(heading="reason", cell=lambda each: each.reason),
    Column(heading="answer", cell=lambda each: "none" if each.status is None else str(each.status)),
    Column(heading="times", cell=lambda each: str(each.count), right=True),
    Column(heading="from", cell=lambda each: each.peer or ""),
)

refused_app = command_group("List the requests that a running listener refused, and what to do.")


@refused_app.command("list")
def list_refused(
    admin: Annotated[str, typer.Option(help="URL of the listener's admin port.")] = DEFAULT_ADMIN,
    admin_token_file: Annotated[Path | None, typer.Option(help="The file with the listener's admin token.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only refusals for this reason.")] = None,
    limit: Annotated[int, typer.Option(help="List at most this many refusals.", min=1, max=MAX_KEPT)] = 50,
    as_json: JsonOption = None,
) -> None:
    """List the requests that a running listener refused, latest first, with the reason and what to do.

    Refusals with the same reason, address, path and key ids are counted on one line. No bodies are kept. A listener forgets its
    refusals when it stops.

    Example: webhook-listener refused list --reason unknown_key
    """
    output = Output(as_json)
    with exit_on_value_error():
        token = None if admin_token_file is None else admin_token(admin_token_file)

    async def work() -> None:
        found = await _fetch(check_base_url(admin, name="--admin", allow_insecure=True), token)
        reasons = sorted({each.reason for each in found})
        wanted = [each for each in found if reason in (None, each.reason)][:limit]
        explained: set[str] = set()

        def note(each: Refusal) -> str:
            """Return the request, and for the first of those with the same advice also the advice."""
            advice = "" if each.advice in explained else each.advice
            explained.add(each.advice)
            return ". ".join(filter(None, (_request_words(each), advice)))

        async def find_any() -> bool:
            return bool(found)

        await write_list(
            output,
            wanted,
            columns=_COLUMNS,
            record=_record,
            note=note,
            noun="refusal",
            empty="The listener has refused nothing since it started.",
            filters={"--reason": reason},
            find_any=find_any,
            others=f"The listener refused requests for {listed(reasons)}." if reasons else "",
        )

    run_command(work)


async def _fetch(admin: str, token: Secret | None) -> Sequence[Refusal]:
    headers = {} if token is None else {"Authorization": f"Bearer {token.reveal()}"}
    body = b""
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(f"{admin}/refused", headers=headers, allow_redirects=False) as reply,
        ):
            async for block in reply.content.iter_any():
                body += block
                if len(body) > _MAX_REPLY:
                    break
            status = reply.status
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        why = one_line(str(error) or type(error).__name__)
        raise CannotStart(f"No listener answers at {admin}: {why}. Start it, or give --admin.", Exit.UNAVAILABLE) from None
    if status == 401 and token is None:
        fail(f"The listener at {admin} requires its admin token. Give --admin-token-file.", Exit.REFUSED)
    if status == 401:
        fail(
            f"The listener at {admin} rejected the token in --admin-token-file. Give the file that the listener uses.",
            Exit.REFUSED,
        )
    if status == 421:
        fail(
            f"The listener does not know the host name in {admin}. Use the listener's address, or start the listener with "
            "--admin-allow-host.",
            Exit.REFUSED,
        )
    try:
        if status != 200:
            raise ValueError
        return from_json(json.loads(body)["refused"])
    except (ValueError, KeyError, TypeError):
        text = f"{admin} (HTTP {status}) is not the admin port of a listener of this version. Give the right one with --admin."
        raise CannotStart(text, Exit.UNAVAILABLE) from None


def _record(each: Refusal) -> dict[str, Any]:
    return {**asdict(each), "first_at": iso_time(each.first_at), "last_at": iso_time(each.last_at)}


def _request_words(each: Refusal) -> str:
    request = " ".join(filter(None, (each.method, each.path)))
    length = "" if each.length is None else counted(each.length, "byte")
    keys = f"claims key {', '.join(each.key_ids)}" if each.key_ids else ""
    return ", ".join(filter(None, (request, length, keys)))
