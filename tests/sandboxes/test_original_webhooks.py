"""Webhooks of the sandboxed Original: signed, repeated, lost, doubled, held back, early."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.sandboxes.conftest import Caller, Inbox
from vendor_sandboxes import OriginalSandbox

CallerOf = Callable[[OriginalSandbox], Caller]
KEYS = {"4o3vfxtcmo7b": "secret-one", "ws7orr8kbho6": "secret-two"}


async def allocated(sandbox: OriginalSandbox, caller_of: CallerOf, nonce: str = "nonce_1", **changes: Any) -> str:
    uid: str = (await caller_of(sandbox).allocate(nonce, **changes)).data["uid"]
    return uid


async def test_settling_sends_the_whole_resource_signed_by_every_key(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_keys=KEYS) as sandbox:
        uid = await allocated(sandbox, caller_of, amount="1.230000000000000001")
        await sandbox.settle(uid)
    (arrival,) = inbox.arrivals
    assert all(arrival.signed_by(*key) for key in KEYS.items())
    assert arrival.headers["x-app-uid"] == sandbox.app_uid == arrival.body["data"]["app"]["uid"]
    assert arrival.headers["x-webhook-attempt"] == "1"
    assert set(arrival.body) == {"data", "event", "event_time", "sent_at"}
    assert arrival.body["event"] == "reward.allocated"
    resource = arrival.body["data"]["allocation"]
    assert (resource["uid"], resource["status"], resource["amount"]) == (uid, "done", Decimal("1.230000000000000001"))
    assert sandbox.books()["allocations"][0]["deliveries"] == 1


async def test_refused_delivery_is_sent_again_signed_afresh_under_the_same_correlation_id(
    caller_of: CallerOf, inbox: Inbox
) -> None:
    inbox.statuses = [500, 302]
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_backoff=0.001) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of))
        await sandbox.delivered()
    assert [arrival.headers["x-webhook-attempt"] for arrival in inbox.arrivals] == ["1", "2", "3"]
    assert len({arrival.headers["x-webhook-correlation-id"] for arrival in inbox.arrivals}) == 1
    assert len({arrival.body["sent_at"] for arrival in inbox.arrivals}) == 3
    assert len({arrival.headers["x-webhook-signature"] for arrival in inbox.arrivals}) == 3
    assert len({arrival.body["event_time"] for arrival in inbox.arrivals}) == 1


async def test_delivery_is_given_up_after_its_attempts(caller_of: CallerOf, inbox: Inbox) -> None:
    inbox.statuses = [503] * 10
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_backoff=0.001, webhook_attempts=3) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of))
        await sandbox.delivered()
        assert sandbox.books()["webhooks"] == {"open": 0, "events": 1, "attempts": 3, "given_up": 1}
    assert len(inbox.arrivals) == 3


async def test_endpoint_that_cannot_be_reached_counts_as_refusal(caller_of: CallerOf, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}/"
    async with OriginalSandbox(confirm=None, webhook_url=url, webhook_backoff=0.001, webhook_attempts=2) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of))
        await sandbox.delivered()
        assert sandbox.books()["webhooks"]["given_up"] == 1


async def test_failed_sends_no_webhook(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of), "failed")
        await sandbox.delivered()
        assert sandbox.books()["webhooks"] == {"open": 0}
    assert inbox.arrivals == []


async def test_claim_sends_its_own_event(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url) as sandbox:
        uid = (await caller_of(sandbox).claim()).data["uid"]
        await sandbox.settle(uid, kind="claim")
    (arrival,) = inbox.arrivals
    assert (arrival.body["event"], arrival.body["data"]["claim"]["uid"]) == ("reward.claimed", uid)


async def test_uid_body_carries_nothing_but_the_uid(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_body="uid") as sandbox:
        uid = await allocated(sandbox, caller_of)
        await sandbox.settle(uid)
    assert inbox.arrivals[0].body["data"]["allocation"] == {"uid": uid}


async def test_opaque_body_does_not_name_the_allocation(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_body="opaque") as sandbox:
        uid = await allocated(sandbox, caller_of)
        await sandbox.settle(uid)
    assert uid.encode() not in inbox.arrivals[0].raw
    assert inbox.arrivals[0].body["event"] == "reward.allocated"


def subject(shape: str, kind: str, resource: Any, uid: str) -> dict[str, Any]:
    """Return what `data` holds beside the app and the transaction log."""
    return {
        "allocation": {kind: resource},
        "reward_allocation": {f"reward_{kind}": resource},
        "flat": resource,
        "allocation_uid": {f"{kind}_uid": uid},
        "reward": {"reward": {"uid": "764893807463", f"{kind}_uid": uid}},
        "allocations": {f"{kind}s": [resource]},
    }[shape]


@pytest.mark.parametrize("kind", ["allocation", "claim"])
@pytest.mark.parametrize("body", ["full", "uid", "opaque"])
@pytest.mark.parametrize("shape", ["allocation", "reward_allocation", "flat", "allocation_uid", "reward", "allocations"])
async def test_event_carries_its_subject_where_the_shape_says(
    caller_of: CallerOf, inbox: Inbox, shape: str, body: str, kind: str
) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_shape=shape, webhook_body=body) as sandbox:
        caller = caller_of(sandbox)
        uid = (await (caller.allocate() if kind == "allocation" else caller.claim())).data["uid"]
        await sandbox.settle(uid, kind=kind)
        read = (await caller.call("GET", f"/reward/{kind}/{uid}")).data
    data = inbox.arrivals[0].body["data"]
    assert (data.pop("app")["uid"], data.pop("transaction_log")["type"]) == (sandbox.app_uid, kind)
    assert data == ({} if body == "opaque" else subject(shape, kind, read if body == "full" else {"uid": uid}, uid))


async def test_mixed_shapes_are_drawn_for_each_event(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_shape="allocation,allocation_uid") as sandbox:
        for number in range(12):
            await sandbox.settle(await allocated(sandbox, caller_of, f"nonce_{number}"))
    names = [name for arrival in inbox.arrivals for name in arrival.body["data"] if name.startswith("allocation")]
    assert (set(names), len(names)) == ({"allocation", "allocation_uid"}, 12)


async def test_each_attempt_may_tell_its_number_in_the_signed_body(caller_of: CallerOf, inbox: Inbox) -> None:
    inbox.statuses = [500, 500]
    options: dict[str, Any] = {"attempt_in_body": True, "webhook_backoff": 0.001, "webhook_keys": KEYS}
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, **options) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of))
        await sandbox.delivered()
    assert [arrival.body["attempt"] for arrival in inbox.arrivals] == [1, 2, 3]
    for arrival in inbox.arrivals:
        assert arrival.body["correlation_id"] == arrival.headers["x-webhook-correlation-id"]
        assert arrival.body["app_uid"] == sandbox.app_uid
        assert all(arrival.signed_by(*key) for key in KEYS.items())


async def test_mixed_bodies_take_turns_as_the_seed_says(caller_of: CallerOf, inbox: Inbox) -> None:
    turns = []
    for _ in range(2):
        async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_body="full,uid", seed=3) as sandbox:
            for number in range(12):
                await sandbox.settle(await allocated(sandbox, caller_of, f"nonce_{number}"))
        turns.append([len(arrival.body["data"]["allocation"]) > 1 for arrival in inbox.arrivals])
        inbox.arrivals.clear()
    assert turns[0] == turns[1]
    assert set(turns[0]) == {True, False}


@pytest.mark.parametrize("amounts", ["string", "number"])
async def test_amounts_are_written_in_webhooks_as_in_answers(caller_of: CallerOf, inbox: Inbox, amounts: str) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, amounts=amounts) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of, amount="123456789.123456789012345678"))
    amount = inbox.arrivals[0].body["data"]["allocation"]["amount"]
    assert isinstance(amount, str) == (amounts == "string")
    assert Decimal(amount) == Decimal("123456789.123456789012345678")


async def test_lost_event_never_arrives(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_loss=1) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of))
        await sandbox.delivered()
        assert sandbox.books()["faults"] == {"webhook_loss": 1}
    assert inbox.arrivals == []


async def test_doubled_event_arrives_twice_under_one_correlation_id(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_duplicate=1) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of))
        await sandbox.delivered()
        assert sandbox.books()["allocations"][0]["deliveries"] == 2
    assert len(inbox.arrivals) == 2
    assert len({arrival.headers["x-webhook-correlation-id"] for arrival in inbox.arrivals}) == 1


async def test_held_back_event_arrives_after_a_later_one(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=(0, 0), webhook_url=inbox.url, webhook_reorder=1, webhook_hold=60) as sandbox:
        first = await allocated(sandbox, caller_of, "nonce_1")
        await sandbox.until(lambda: sandbox.webhooks.open == 1)
        sandbox.options.webhook_reorder = 0
        second = await allocated(sandbox, caller_of, "nonce_2")
        await sandbox.until(lambda: sandbox.webhooks.counts["accepted"] == 2)
    assert [arrival.body["data"]["allocation"]["uid"] for arrival in inbox.arrivals] == [second, first]


async def test_held_back_event_goes_out_alone_in_the_end(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_reorder=1, webhook_hold=0.01) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of))
        assert len(inbox.arrivals) == 1


async def test_webhook_before_reply_arrives_before_the_uid_is_known(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_before_reply=1) as sandbox:
        uid = await allocated(sandbox, caller_of)
        assert [arrival.body["data"]["allocation"]["uid"] for arrival in inbox.arrivals] == [uid]


async def test_webhooks_can_be_pointed_elsewhere_and_off_while_it_runs(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of, "nonce_1"))
        assert sandbox.webhook_url is None
        sandbox.webhook_url = inbox.url
        second = await allocated(sandbox, caller_of, "nonce_2")
        await sandbox.settle(second)
    assert [arrival.body["data"]["allocation"]["uid"] for arrival in inbox.arrivals] == [second]


@pytest.mark.slow
@pytest.mark.repeats_itself
@pytest.mark.parametrize("seconds", [(0, 0), (0, 0.01)])
async def test_many_operations_confirm_by_themselves_each_with_one_webhook(
    caller_of: CallerOf, inbox: Inbox, seconds: tuple[float, float]
) -> None:
    async with OriginalSandbox(confirm=seconds, webhook_url=inbox.url) as sandbox:
        for number in range(200):
            await allocated(sandbox, caller_of, f"nonce_{number}")
        await sandbox.until(lambda: sandbox.webhooks.counts["accepted"] == 200)
        assert {entry["status"] for entry in sandbox.books()["allocations"]} == {"done"}
    assert len({arrival.body["data"]["allocation"]["uid"] for arrival in inbox.arrivals}) == 200


async def test_events_under_way_are_given_up_when_there_is_nowhere_to_send_them(caller_of: CallerOf, inbox: Inbox) -> None:
    inbox.statuses = [500]
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_backoff=0.05, webhook_attempts=3) as sandbox:
        await sandbox.settle(await allocated(sandbox, caller_of))
        sandbox.webhook_url = None
        await sandbox.delivered()
        assert sandbox.books()["webhooks"] == {"open": 0, "events": 1, "attempts": 3, "given_up": 1}
    assert len(inbox.arrivals) == 1


def test_key_that_cannot_sign_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="4o3vfxtcmo7b"):
        OriginalSandbox(webhook_keys={"4o3vfxtcmo7b": ""})


@pytest.mark.slow
async def test_sandbox_is_quiet_when_held_back_events_have_gone_out_too(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=(0, 0.01), webhook_url=inbox.url, webhook_reorder=0.5, webhook_hold=0.02) as sandbox:
        for number in range(40):
            await allocated(sandbox, caller_of, f"nonce_{number}")
        await sandbox.quiet()
    assert len(inbox.arrivals) == 40
