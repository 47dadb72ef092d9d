"""Timeouts, the time reserved for the look-up, and what a cancelled call leaves behind."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aioresponses import CallbackResult, aioresponses
from yarl import URL

from original_async import OriginalClient
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import DeadlineExceeded, OutcomeUnknown, RequestRejected
from rewards_core.http.timeouts import Timeouts
from rewards_core.rate import Limits
from tests.original_async.conftest import REWARD, USER
from tests.original_async.family_kit import CALLS
from tests.texts import said
from tests.virtual_time import virtual_time
from vendor_sandboxes.original import API_KEY, API_SECRET

NOTHING_LISTED = CallbackResult(payload={"success": True, "data": []})
REFUSED = CallbackResult(status=400, payload={"detail": "Out of budget."})
OVERLOADED = CallbackResult(status=503)


class Vendor:
    """A vendor that never answers unless it has an answer; it records when requests arrive and are dropped."""

    def __init__(self, wire: aioresponses, **answers: CallbackResult) -> None:
        self.answers = answers
        self.asked: dict[str, list[float]] = {"POST": [], "GET": []}
        self.left: dict[str, list[float]] = {"POST": [], "GET": []}
        wire.post(re.compile(""), callback=self._on("POST"), repeat=True)
        wire.get(re.compile(""), callback=self._on("GET"), repeat=True)

    def _on(self, method: str) -> Callable[..., Awaitable[CallbackResult]]:
        async def answer(url: URL, **_: Any) -> CallbackResult:
            self.asked[method].append(now())
            if method not in self.answers:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.left[method].append(now())
            return self.answers[method]

        return answer


def now() -> float:
    return asyncio.get_running_loop().time()


def client_of_the_loop(**options: Any) -> OriginalClient:
    """Return a client whose clock is the running loop's."""
    return OriginalClient(API_KEY, API_SECRET, random=lambda: 0.0, **options)


async def allocate(client: OriginalClient, **options: Any) -> Any:
    return await client.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount="1.23", nonce="nonce_1", **options)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("options", "seconds"), [({"timeout": 3}, 3), ({"timeout": 60.5}, 60.5), ({}, 5), ({"timeout": None}, 5)]
)
@virtual_time
async def test_a_call_is_over_when_its_time_is(wire: aioresponses, call: Any, options: dict[str, Any], seconds: float) -> None:
    Vendor(wire)
    async with client_of_the_loop(timeouts=Timeouts(total=5, read=100)) as client:
        started = now()
        with pytest.raises((DeadlineExceeded, OutcomeUnknown)):
            await call(client, **options)
        assert now() - started == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("total", "kept", "looks"), [(30.0, 5.0, 2), (300.0, 5.0, 2), (15.0, 3.0, 2), (10.0, 2.0, 1), (1.0, 0.2, 1)]
)
@virtual_time
async def test_attempts_that_use_up_their_time_leave_the_look_up_its_own(
    wire: aioresponses, total: float, kept: float, looks: int
) -> None:
    vendor = Vendor(wire, GET=NOTHING_LISTED)
    async with client_of_the_loop(retry=RetryPolicy(attempts=1000)) as client:
        started = now()
        with pytest.raises(OutcomeUnknown) as caught:
            await allocate(client, timeout=total)
    begun = started + total - kept
    assert vendor.left["POST"][-1] == pytest.approx(begun)
    assert vendor.asked["GET"] == pytest.approx([begun, begun + 2.0][:looks])
    assert caught.value.attempts == len(vendor.asked["POST"])
    assert caught.value.elapsed == pytest.approx(vendor.asked["GET"][-1] - started)


@virtual_time
async def test_three_attempts_that_use_up_everything_are_followed_by_a_look_up_of_five_seconds(wire: aioresponses) -> None:
    vendor = Vendor(wire)
    async with client_of_the_loop() as client:
        started = now()
        with pytest.raises(OutcomeUnknown) as caught:
            await allocate(client)
        said("create_allocation: neither the attempts nor the look-up were answered", caught.value)
        assert now() - started == pytest.approx(30.0)
    assert vendor.asked["POST"] == pytest.approx([started, started + 10.25, started + 20.75])
    assert vendor.asked["GET"] + vendor.left["GET"] == pytest.approx([started + 25.0, started + 30.0])


@virtual_time
async def test_a_pause_that_would_run_into_the_look_ups_time_is_not_made(wire: aioresponses) -> None:
    vendor = Vendor(wire, POST=OVERLOADED, GET=NOTHING_LISTED)
    async with client_of_the_loop(retry=RetryPolicy(attempts=9, first_delay=3.0)) as client:
        with pytest.raises(OutcomeUnknown):
            await allocate(client, timeout=10.0)
    assert [at - vendor.asked["POST"][0] for at in vendor.asked["POST"]] == pytest.approx([0.0, 3.0])
    assert len(vendor.asked["GET"]) == 2


@virtual_time
async def test_a_call_bounded_by_its_own_timeout_can_be_waited_for(wire: aioresponses) -> None:
    Vendor(wire)
    async with client_of_the_loop() as client:
        with pytest.raises(OutcomeUnknown) as caught:
            await allocate(client, timeout=0.5)
    assert caught.value.idempotency_key == "nonce_1"
    assert caught.value.elapsed == pytest.approx(0.5)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("answers", "repeated"),
    [
        ({}, False),
        ({}, True),
        ({"POST": OVERLOADED}, False),
        ({"POST": OVERLOADED, "GET": NOTHING_LISTED}, False),
    ],
    ids=["during the POST", "during a repeated POST", "during the look-up", "between two look-ups"],
)
@virtual_time
async def test_a_call_that_is_cancelled_leaves_one_warning(
    wire: aioresponses, caplog: pytest.LogCaptureFixture, answers: dict[str, CallbackResult], repeated: bool
) -> None:
    Vendor(wire, **answers)
    async with client_of_the_loop(retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.5):
                await allocate(client, repeated=repeated)
    assert type(caught.value) is TimeoutError
    (warning,) = warnings(caplog)
    assert "create_allocation" in warning
    assert "'nonce_1'" in warning
    assert API_SECRET not in caplog.text
    assert "Bearer" not in caplog.text


@virtual_time
async def test_a_claim_that_is_cancelled_leaves_one_warning(wire: aioresponses, caplog: pytest.LogCaptureFixture) -> None:
    Vendor(wire)
    async with client_of_the_loop() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await CALLS["create_claim"](client)
    (warning,) = warnings(caplog)
    assert "create_claim" in warning


@virtual_time
async def test_a_call_cancelled_while_its_refusal_is_looked_up_needs_no_warning(
    wire: aioresponses, caplog: pytest.LogCaptureFixture
) -> None:
    vendor = Vendor(wire, POST=REFUSED)
    async with client_of_the_loop() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await allocate(client)
        assert (len(vendor.asked["GET"]), warnings(caplog)) == (1, [])
        vendor.answers["GET"] = NOTHING_LISTED
        with pytest.raises(RequestRejected):
            await allocate(client)


@virtual_time
async def test_a_call_cancelled_before_it_left_needs_no_warning(wire: aioresponses, caplog: pytest.LogCaptureFixture) -> None:
    vendor = Vendor(wire)
    async with client_of_the_loop(limits=Limits(connections=1)) as client:
        read = asyncio.ensure_future(client.get_claim("1"))
        while not vendor.asked["GET"]:
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await allocate(client)
        read.cancel()
        await asyncio.wait([read])
    assert (vendor.asked["POST"], warnings(caplog)) == ([], [])
