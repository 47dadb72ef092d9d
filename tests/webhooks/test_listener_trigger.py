"""`webhook-listener trigger`: a sample event, signed and sent as the vendor does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from rewards_core.operations import OperationRef
from tests.webhooks.command_kit import lines, records, run, served
from tests.webhooks.listener_process import KEYS, SOURCE
from webhooks.cli.samples import Shape, parse_override, sample_body


@pytest.fixture(autouse=True)
def keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)


class Target:
    """Takes deliveries and answers as told."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""


@pytest.fixture
def target(folder: Path) -> Iterator[Target]:
    target = Target(200)

    async def take(request: web.Request) -> web.Response:
        target.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=target.status)

    def application() -> web.Application:
        made = web.Application()
        made.router.add_post("/in", take)
        return made

    async def open_at(runner: web.AppRunner) -> None:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        target.url = f"http://127.0.0.1:{runner.addresses[0][1]}/in"

    with served(application, open_at):
        yield target


def test_trigger_sends_what_the_vendor_would_sign(target: Target) -> None:
    result = run("trigger", "reward.claimed", "--to", target.url, "--uid", "77", "--status", "failed", "--amount", "9.9")
    assert lines(result)[0]["status"] == 200
    ((headers, raw),) = target.got
    SOURCE.verify(headers, raw)
    event = SOURCE.parse(raw, headers)
    assert event.ref == OperationRef("default", "claim", "77")
    assert event.resource is not None
    assert (event.resource["status"], event.resource["amount"]) == ("failed", "9.9")
    assert (event.attempt, headers["x-app-uid"]) == ("1", "UB2DG8MW5KBQ")


def test_trigger_sends_every_digit_it_was_given(target: Target) -> None:
    assert run("trigger", "--to", target.url, "--set", "data.allocation.amount=1.10", "--set", "data.n=1e2").exit_code == 0
    ((_, raw),) = target.got
    assert b'"amount":1.10' in raw
    assert b'"n":1E+2' in raw


def test_trigger_can_send_duplicates_and_bodies_of_every_shape(target: Target) -> None:
    assert run("trigger", "--to", target.url, "--duplicate", "2", "--body", "uid", "--delay", "0.01").exit_code == 0
    assert len({raw for _, raw in target.got}) == 1
    assert [headers["x-webhook-attempt"] for headers, _ in target.got] == ["1", "2", "3"]
    read = SOURCE.parse(target.got[0][1])
    assert (read.ref is None, read.resource) == (False, None)
    assert run("trigger", "asset.minted", "--to", target.url, "--body", "opaque", "--set", "data=[]").exit_code == 0
    assert SOURCE.parse(target.got[-1][1]).ref is None


def test_trigger_with_a_bad_signature_is_refused_by_who_looks(target: Target) -> None:
    target.status = 401
    result = run("trigger", "--to", target.url, "--bad-signature")
    assert result.exit_code == 6
    assert result.stderr == f"{target.url} refused the event (HTTP 401). See the log of what runs there.\n"
    headers, raw = target.got[0]
    with pytest.raises(Exception, match="does not fit the body"):
        SOURCE.verify(headers, raw)


def test_trigger_says_when_the_event_is_not_kept(target: Target) -> None:
    target.status = 503
    result = run("trigger", "--to", target.url)
    assert (result.exit_code, records(result)[0]["status"]) == (7, 503)
    assert result.stderr == f"{target.url} did not keep the event (HTTP 503). The vendor would send it again.\n"
    result = run("trigger", "--to", "http://127.0.0.1:9/")
    assert (result.exit_code, result.stdout) == (7, "")
    assert result.stderr == (
        "No answer came from http://127.0.0.1:9/ (ClientConnectorError). The event may not have arrived. Start the listener, or "
        "name another with --to.\n"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("data", "--set: give PATH=VALUE such as data.allocation.nonce=n1, not 'data'.\n"),
        ("=1", "--set: give PATH=VALUE such as data.allocation.nonce=n1, not '=1'.\n"),
        ("a..b=1", "--set: give PATH=VALUE such as data.allocation.nonce=n1, not 'a..b=1'.\n"),
        ("event.x=1", "--set: 'event.x' leads through 'event', which is no object in this event. Give another path.\n"),
    ],
)
def test_trigger_refuses_what_it_cannot_put_into_the_body(words: str, told: str) -> None:
    result = run("trigger", "--set", words)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", told)


@pytest.mark.parametrize(
    ("words", "app"),
    [
        ("data={}", None),
        ("data.app=null", None),
        ("data.app.uid=7", None),
        ('data.app.uid="a\\nb"', None),
        ('data.app.uid="\u00fc"', None),
        ("data.app.uid=OTHERAPP0000", "OTHERAPP0000"),
    ],
)
def test_trigger_sends_bodies_without_a_usable_app_too(target: Target, words: str, app: str | None) -> None:
    assert run("trigger", "--to", target.url, "--set", words).exit_code == 0
    ((headers, raw),) = target.got
    SOURCE.verify(headers, raw)
    assert headers.get("x-app-uid") == app


def test_a_sample_takes_overrides_at_any_depth() -> None:
    overrides = [parse_override("data.allocation.nonce=n1"), parse_override("data.new.deep=[1]"), parse_override("event=other")]
    body = sample_body(
        "reward.allocated", shape=Shape.FULL, uid="1", status="done", amount="1", app_uid="APP", overrides=overrides
    )
    assert (body["data"]["allocation"]["nonce"], body["data"]["new"]["deep"], body["event"]) == ("n1", [1], "other")
    assert body["data"]["app"]["uid"] == "APP"
