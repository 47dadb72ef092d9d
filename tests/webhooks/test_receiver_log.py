"""What a receiver logs: handlers that nobody started, refusals, and each delivery where that is asked for."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from rewards_core.errors import StoreError
from rewards_core.operations import Event
from tests.texts import said
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import FakeSource, body_of, words_of
from tests.webhooks.receiver_kit import Inbox
from tests.webhooks.store_contract import A_DAY
from webhooks import Acceptance, MemoryStore, Receiver


async def test_handlers_that_nobody_started_are_warned_about_at_the_first_delivery_and_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = Inbox()

    @inbox.receiver.on("*", name="app.note")
    async def note(event: Event) -> None:
        raise AssertionError

    await inbox.receiver.receive({}, b"unsigned")
    caplog.clear()
    for uid in "123":
        assert (await inbox.send(body_of(uid=uid))).status == 200
    said("handlers that nobody started are warned about at the first delivery and once", "\n".join(caplog.messages))


async def test_nothing_is_warned_about_where_there_are_no_handlers_or_they_were_started(caplog: pytest.LogCaptureFixture) -> None:
    without, started = Inbox(), Inbox()

    @started.receiver.on("*", name="app.note")
    async def note(event: Event) -> None:
        return

    async with started.receiver:
        for inbox in (without, started):
            assert (await inbox.send(body_of(uid="1"))).status == 200
    assert caplog.text == ""


@virtual_time
async def test_strangers_cannot_fill_the_log_however_the_clock_is_set(caplog: pytest.LogCaptureFixture) -> None:
    clock = iter(range(0, -200, -1))
    receiver = Receiver(FakeSource(), MemoryStore(), clock=lambda: next(clock) * A_DAY)
    for _ in range(100):
        await receiver.receive({}, b"{}")
    assert len(caplog.messages) == 1
    await asyncio.sleep(59)
    await receiver.receive({}, b"{}")
    assert len(caplog.messages) == 1
    await asyncio.sleep(1)
    await receiver.receive({}, b"{}")
    said("strangers cannot fill the log however the clock is set", "\n".join(caplog.messages))


async def test_each_delivery_is_logged_where_that_is_asked_for_and_only_there(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    body = body_of(uid="1", resource=words_of("1", "done"))
    caplog.set_level(logging.WARNING, "webhooks.deliveries")
    await inbox.send(body)
    caplog.set_level(logging.INFO, "webhooks.deliveries")
    await inbox.receiver.receive(inbox.source.sign(body), body, "203.0.113.7")
    await inbox.receiver.receive({}, body, "203.0.113.7")
    inbox.receiver.refusal("GET", {}, None)
    duplicate, refused, method = [each for each in caplog.records if each.name == "webhooks.deliveries"]
    assert re.fullmatch(r"\S+ 1 duplicate [\d.]+ ms", duplicate.getMessage())
    assert vars(duplicate).items() >= {"uid": "1", "verdict": "duplicate", "peer": "203.0.113.7", "scope": "default"}.items()
    assert re.fullmatch(r"- - refused \(missing\) from 203\.0\.113\.7 [\d.]+ ms", refused.getMessage())
    assert 0 <= vars(refused)["ms"] < 60_000
    assert method.getMessage() == "- - refused (method) from -"
    assert "ms" not in vars(method)


@virtual_time
async def test_strangers_fill_no_log_where_each_delivery_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    caplog.set_level(logging.INFO, "webhooks.deliveries")

    async def refuse(count: int) -> int:
        """Return how many refusals are logged with a line of their own."""
        before = len(caplog.records)
        for _ in range(count):
            await inbox.receiver.receive({}, b"{}", "203.0.113.7")
        return len([each for each in caplog.records[before:] if each.name == "webhooks.deliveries"])

    assert await refuse(9) == 9
    await asyncio.sleep(0.9)
    assert await refuse(50) == 1
    await asyncio.sleep(0.1)
    assert await refuse(50) == 9
    await asyncio.sleep(60)
    body = body_of(uid="1", resource=words_of("1", "done"))
    assert await refuse(50) == 10
    await inbox.send(body)
    assert caplog.records[-1].__dict__["verdict"] == "new"
    warned = [each.getMessage() for each in caplog.records if each.name == "webhooks.receiver"]
    assert [re.search(r"(\d+) so far", line)[1] for line in warned if "so far" in line] == ["1", "110"]  # type: ignore[index]


async def test_a_delivery_that_could_not_be_kept_is_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryStore):
        async def accept(self, event: Event, **options: Any) -> Acceptance:
            raise StoreError("the disk is full")

    caplog.set_level(logging.INFO, "webhooks.deliveries")
    source, body = FakeSource(), body_of(uid="1")
    await Receiver(source, Full()).receive(source.sign(body), body)
    assert [each.getMessage().rsplit(" ", 2)[0] for each in caplog.records if each.name == "webhooks.deliveries"] == [
        f"{source.parse(body).name} 1 not kept"
    ]
