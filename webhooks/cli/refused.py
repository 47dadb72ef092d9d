"""Commands about what a running listener refused: list."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import aiohttp
import typer
from attrs import asdict

from rewards_core.cli.columns import Column
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, wrong_usage
from rewards_core.cli.program import group_of_one
from rewards_core.environment import listed
from rewards_core.text import counted, one_line
from rewards_core.validation import check_base_url
from webhooks.cli.ending import CannotStart, run
from webhooks.cli.lists import Nothing, moment, show, time_column, when
from webhooks.cli.refusal_lists import from_json
from webhooks.cli.settings import admin_token
from webhooks.refusals import MAX_KEPT, Refusal

if TYPE_CHECKING:
    from rewards_core.secrets import Secret

DEFAULT_ADMIN = "http://127.0.0.1:8481"
_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_LONGEST_ANSWER = 4 << 20
_COLUMNS = (
    time_column("last"),
    Column(heading="reason"),
    Column(heading="answer"),
    Column(heading="times", right=True),
    Column(heading="from"),
)

refused_app = group_of_one("List what a running listener refused, and what to do.")


@refused_app.command("list")
def list_refused(
    admin: Annotated[str, typer.Option(help="Where the listener serves its admin port.")] = DEFAULT_ADMIN,
    admin_token_file: Annotated[Path | None, typer.Option(help="The listener's file of the admin token.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only refusals for this reason.")] = None,
    limit: Annotated[int, typer.Option(help="The most refusals to list.", min=1, max=MAX_KEPT)] = 50,
    as_json: JsonOption = None,
) -> None:
    """List what a running listener refused last, newest first, with the reason and what to do.

    Refusals alike in reason, address, path and key ids are one line with their count. Nothing of a body is kept, and a listener
    forgets them when it ends.

    Example: webhook-listener refused list --reason unknown_key
    """
    output = Output(as_json)
    with wrong_usage():
        token = None if admin_token_file is None else admin_token(admin_token_file)

    async def work() -> None:
        found = await _asked(check_base_url(admin, name="--admin", allow_insecure=True), token)
        reasons = sorted({each.reason for each in found})
        wanted = [each for each in found if reason in (None, each.reason)][:limit]
        explained: set[str] = set()

        def note(each: Refusal) -> str:
            """Return what came, and below the first of those that have the same advice what to do."""
            new = each.advice not in explained
            explained.add(each.advice)
            return ". ".join(filter(None, (_what_came(each), each.advice if new else "")))

        async def any_left() -> bool:
            return bool(found)

        await show(
            output,
            _each(wanted),
            columns=_COLUMNS,
            record=_record,
            cells=_cells,
            note=note,
            nothing=Nothing(
                one="refusal",
                none="The listener has refused nothing since it started.",
                filters={"--reason": reason},
                any_left=any_left,
                others=f"The listener refused others for {listed(reasons)}." if reasons else "",
            ),
        )

    run(work)


async def _asked(admin: str, token: Secret | None) -> Sequence[Refusal]:
    headers = {} if token is None else {"Authorization": f"Bearer {token.reveal()}"}
    body = b""
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(f"{admin}/refused", headers=headers, allow_redirects=False) as answer,
        ):
            async for block in answer.content.iter_any():
                body += block
                if len(body) > _LONGEST_ANSWER:
                    break
            status = answer.status
    except (aiohttp.ClientError, OSError, TimeoutError) as problem:
        words = f"No listener answers at {admin}: {one_line(str(problem) or type(problem).__name__)}. Start it, or give --admin."
        raise CannotStart(words, Exit.UNAVAILABLE) from None
    if status == 401:
        words = "asks for its admin token. Give --admin-token-file."
        if token is not None:
            words = "does not know the token that --admin-token-file holds. Name the file with which it was started."
        fail(f"The listener at {admin} {words}", Exit.REFUSED)
    if status == 421:
        fail(f"The listener does not know the name in {admin}. Give its address, or serve with --admin-allow-host.", Exit.REFUSED)
    try:
        if status != 200:
            raise ValueError
        return from_json(json.loads(body)["refused"])
    except (ValueError, KeyError, TypeError):
        words = f"{admin} answers (HTTP {status}), but is not the admin port of a listener of this version. Give that as --admin."
        raise CannotStart(words, Exit.UNAVAILABLE) from None


async def _each(refusals: Sequence[Refusal]) -> AsyncIterator[Refusal]:
    for each in refusals:
        yield each


def _record(each: Refusal) -> dict[str, Any]:
    return {**asdict(each), "first_at": moment(each.first_at), "last_at": moment(each.last_at)}


def _cells(each: Refusal) -> dict[str, str]:
    return {
        "last (UTC)": when(each.last_at),
        "reason": each.reason,
        "answer": "none" if each.status is None else str(each.status),
        "times": str(each.count),
        "from": each.peer or "",
    }


def _what_came(each: Refusal) -> str:
    """Return what is known of the request, for people."""
    target = " ".join(filter(None, (each.method, each.path)))
    length = "" if each.length is None else counted(each.length, "byte")
    keys = f"claims key {', '.join(each.key_ids)}" if each.key_ids else ""
    return ", ".join(filter(None, (target, length, keys)))
