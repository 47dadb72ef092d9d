"""`webhook-listener refused list`: what a running listener refused, alone and with workers."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from original_async import OriginalWebhooks
from tests.texts import said
from tests.webhooks.command_kit import STRANGE, beside, lines, run, screen, served
from tests.webhooks.listener_process import KEYS, SECRETS, client, delivery, post, running, signed, working
from webhooks.cli.control_channel import Channel
from webhooks.cli.refusal_lists import from_json, to_json
from webhooks.refusals import MAX_KEPT, Refusals, merged

ROTATED = OriginalWebhooks({"9zzzzzzzzzzz": "another_secret_of_some_length"})
FORGED = OriginalWebhooks({next(iter(SECRETS)): "another_secret_of_some_length"})


async def refused(admin: str, *options: str) -> list[dict[str, Any]]:
    return lines(await beside("refused", "list", "--admin", admin, *options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "what_to_do"),
    [((), "set ORIGINAL_WEBHOOK_KEYS and restart the listener"), (("--keys-file", "a.keys"), "send SIGHUP to the listener")],
    ids=["variable", "file"],
)
async def test_what_to_do_about_a_rotated_key_fits_where_keys_come_from(
    tmp_path: Path, options: tuple[str, ...], what_to_do: str
) -> None:
    (tmp_path / "a.keys").write_text(KEYS)
    async with running(tmp_path, *options) as listener, aiohttp.ClientSession() as session:
        for number, keys in enumerate((ROTATED, FORGED)):
            body = delivery(str(number))
            assert await post(session, listener.url, body, signed(body, keys)) == 401
        found = await refused(listener.where["admin"])
    assert {each["reason"] for each in found} == {"unknown_key", "mismatch"}
    assert all(what_to_do in each["advice"] for each in found)


@pytest.mark.slow
async def test_every_refusal_is_listed_with_its_reason_and_what_to_do(tmp_path: Path) -> None:
    async with running(tmp_path) as listener, aiohttp.ClientSession() as session:
        body, admin = delivery("1"), listener.where["admin"]
        for _ in range(2):
            assert await post(session, listener.url, body, signed(body, ROTATED)) == 401
        assert await post(session, listener.url, body, signed(body, FORGED)) == 401
        assert await post(session, f"{listener.url}/other?token=SECRET-WORD", body) == 404
        async with session.get(listener.url) as answer:
            assert answer.status == 405
        async with session.get(f"{admin}/metrics", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 421
        found = {each["reason"]: each for each in await refused(admin)}
        assert set(found) == {"unknown_key", "mismatch", "path", "method", "admin_host"}
        unknown = found["unknown_key"]
        assert (unknown["key_ids"], unknown["count"], unknown["length"]) == (["9zzzzzzzzzzz"], 2, len(body))
        assert (unknown["peer"], unknown["path"], unknown["status"]) == ("127.0.0.1", "/webhooks/original", 401)
        assert unknown["first_at"] <= unknown["last_at"]
        assert "/webhooks/original" in found["path"]["advice"]
        assert "SECRET-WORD" not in json.dumps(found)
        assert [each["reason"] for each in await refused(admin, "--limit", "1")] == ["admin_host"]
        (only,) = await refused(admin, "--reason", "mismatch")
        assert only == found["mismatch"]


@pytest.mark.slow
async def test_what_several_workers_refused_is_one_list_and_outlives_them(tmp_path: Path) -> None:
    async with working(tmp_path) as workers, client() as session:
        body, admin = delivery("1"), workers.listener.where["admin"]
        for number in (0, 1):
            async with workers.only(number):
                assert await post(session, workers.url, body, signed(body, ROTATED)) == 401
        (found,) = await refused(admin)
        assert (found["count"], found["path"]) == (2, "/webhooks/original")
        workers.kill(0)
        assert await workers.replaced() == 0
        (found,) = await refused(admin)
        assert found["count"] == 2
        assert (await workers.get("/other"))[0] == 404
        assert [each["reason"] for each in await refused(admin)] == ["admin_path", "unknown_key"]
        assert 'webhooks_rejected_total{path="",reason="admin_path"} 1.0' in (await workers.get("/metrics"))[1]


@pytest.mark.slow
async def test_a_token_is_asked_for_and_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token\n")
    async with running(tmp_path, "--admin-token-file", "token", "--admin-allow-host", "admin.internal") as listener:
        admin = listener.where["admin"]
        without = await beside("refused", "list", "--admin", admin)
        assert without.exit_code == 6
        assert (await refused(admin, "--admin-token-file", str(tmp_path / "token")))[0]["reason"] == "admin_token"


async def test_the_longest_list_fits_between_a_worker_and_its_supervisor() -> None:
    book = Refusals(logging.getLogger("refused-test"))
    for number in range(2 * MAX_KEPT):
        strange = f"{number}\\\\\U0001f600\u202e" * 100
        book.note(
            "path", strange, method=strange, path=strange, key_ids=[f"{each}{strange}" for each in range(9)], advice="ü" * 9_000
        )
    here, there = [await Channel.over(each) for each in socket.socketpair()]
    kept = book.newest_first()
    here.send({"answer": "refused", "value": to_json(kept)})
    message = await there.receive()
    assert message is not None
    assert merged(from_json(message["value"])) == merged(from_json(to_json(kept)))
    assert len(kept) == MAX_KEPT
    here.close()
    there.close()


ENTRY = {
    "reason": "unknown_key",
    "advice": "Compare their ids.",
    "count": 1_200,
    "first_at": 1_000_000.0,
    "last_at": 1_000_060.0,
    "status": 401,
    "peer": "2001:db8::7",
    "method": "POST",
    "path": "/webhooks/original",
    "length": 1,
    "key_ids": ["9zzzzzzzzzzz", STRANGE],
}


@pytest.fixture
def answers() -> list[tuple[int, bytes]]:
    return [(200, json.dumps({"refused": [ENTRY, {**ENTRY, "status": None, "key_ids": [], "path": None}]}).encode())]


@pytest.fixture
def admin(answers: list[tuple[int, bytes]]) -> Iterator[str]:
    """Stand where an admin port stands, and answer what it is told."""
    found = socket.socket()
    found.bind(("127.0.0.1", 0))

    async def answer(_: web.Request) -> web.Response:
        status, body = answers[0]
        return web.Response(status=status, body=body)

    def application() -> web.Application:
        made = web.Application()
        made.router.add_get("/refused", answer)
        return made

    async def open_at(runner: web.AppRunner) -> None:
        await web.SockSite(runner, found).start()

    with served(application, open_at):
        yield "http://{}:{}".format(*found.getsockname())


def test_a_person_reads_columns_and_what_to_do_once(admin: str) -> None:
    shown = screen("refused", "list", "--admin", admin)
    said("refused list", "\n".join(shown))
    assert max(len(line) for line in shown if not line.startswith(" ")) <= 80


def test_an_empty_list_says_so(admin: str, answers: list[tuple[int, bytes]]) -> None:
    nonsense = ("refused", "list", "--admin", admin, "--reason", "nonsense")
    shown = screen(*nonsense)
    entries = [{**ENTRY, "reason": each} for each in ("unknown_key", "mismatch\x1b[31m", "unknown_key")]
    answers[0] = (200, json.dumps({"refused": entries}).encode())
    shown += screen(*nonsense)
    assert run(*nonsense, "--json").stdout == ""
    answers[0] = (200, b'{"refused": []}')
    said("refused list: empty", "\n".join(shown + screen("refused", "list", "--admin", admin)))


def test_what_is_no_list_is_a_line_and_an_exit_code(admin: str, answers: list[tuple[int, bytes]], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("an-older-token\n")
    token = ("--admin-token-file", str(tmp_path / "token"))
    cases: list[tuple[int, bytes, int, tuple[str, ...]]] = [
        (401, b"", 6, ()),
        (401, b"", 6, token),
        (421, b"", 6, ()),
        (404, b"", 7, ()),
        (301, b"", 7, ()),
        (200, b"NaN", 7, ()),
        (200, b'{"refused": NaN}', 7, ()),
        (200, b'{"refused": [{"reason": "x"}]}', 7, ()),
        (200, b"x" * 5_000_000, 7, ()),
    ]
    errors: dict[str, None] = {}
    for status, body, code, options in cases:
        answers[0] = (status, body)
        result = run("refused", "list", "--admin", admin, *options)
        assert result.exit_code == code
        errors[result.stderr.replace(admin, "ADMIN")] = None
    said("refused list: answers that are no list", "".join(errors))


def test_where_no_listener_is_the_command_says_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        result = run("refused", "list", "--admin", url)
    assert (result.exit_code, url in result.stderr) == (7, True)


@pytest.mark.parametrize("options", [("--admin", "nowhere"), ("--limit", "257"), ("--admin-token-file", "nowhere")])
def test_wrong_options_are_said(options: tuple[str, str]) -> None:
    result = run("refused", "list", *options)
    assert result.exit_code == 2
    assert options[0 if options[0] != "--admin-token-file" else 1] in result.output
