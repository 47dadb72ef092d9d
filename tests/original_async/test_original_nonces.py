"""A nonce is one payout: outcomes after lost replies, rejections and lagging lists."""

from __future__ import annotations

import asyncio
import itertools
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses

from original_async import Allocation, OriginalClient
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    ClientClosed,
    Conflict,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    RewardsError,
    Unauthorized,
    VendorError,
)
from rewards_core.http.timeouts import Timeouts
from tests.original_async.conftest import BASE, REWARD, USER, MakeClient
from tests.stepped_time import SteppedTime
from tests.texts import said
from vendor_sandboxes.original import OriginalSandbox

OTHER_REWARD = "112144981245"


async def allocate(client: OriginalClient, **changes: Any) -> Allocation:
    arguments = {"reward_uid": REWARD, "to_user_uid": USER, "amount": "1.23", "nonce": "nonce_1", **changes}
    return await client.create_allocation(**arguments)


def posts(sandbox: OriginalSandbox) -> list[Any]:
    return [seen for seen in sandbox.requests if seen.method == "POST"]


def held(sandbox: OriginalSandbox) -> list[Any]:
    return list(sandbox.state.operations["allocation"].values())


@pytest.mark.parametrize("fault", ["drop_after_commit", "p503_after_commit"])
@pytest.mark.parametrize("mode", ["reject", "replay"])
async def test_a_reply_lost_after_commit_gives_the_same_allocation(
    original: OriginalClient, sandbox: OriginalSandbox, fault: str, mode: str
) -> None:
    sandbox.options.duplicate_nonce = mode
    sandbox.plan.script(fault)
    allocation = await allocate(original)
    assert [operation.uid for operation in held(sandbox)] == [allocation.uid]
    assert allocation.recovered == (mode == "reject")
    assert len({seen.body for seen in posts(sandbox)}) == 1
    assert len(posts(sandbox)) == 2


async def test_a_slow_answer_after_commit_gives_the_same_allocation(
    original: OriginalClient, sandbox: OriginalSandbox, ticks: SteppedTime
) -> None:
    sandbox.options.slow_seconds = 60
    sandbox.plan.script("slow_after_commit")
    call = asyncio.ensure_future(allocate(original))
    await sandbox.until(lambda: bool(held(sandbox)))
    ticks.at += 10.1
    allocation = await call
    assert [operation.uid for operation in held(sandbox)] == [allocation.uid]
    assert allocation.recovered


async def test_every_reply_lost_gives_the_same_allocation(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    sandbox.plan.script("drop_after_commit", "drop_after_commit", "drop_after_commit")
    allocation = await allocate(original)
    assert allocation.recovered
    assert [operation.uid for operation in held(sandbox)] == [allocation.uid]


async def test_nothing_arrived_and_nobody_knows_is_unknown(
    original: OriginalClient, sandbox: OriginalSandbox, ticks: SteppedTime
) -> None:
    sandbox.plan.script("p503", "p503", "p503")
    with pytest.raises(OutcomeUnknown) as caught:
        await allocate(original)
    said("create_allocation: no attempt was answered", caught.value)
    assert (caught.value.idempotency_key, caught.value.status, caught.value.attempts) == ("nonce_1", 503, 3)
    assert ticks.slept == [0.25, 0.5, 2.0]
    assert caught.value.elapsed == 2.75
    assert held(sandbox) == []


async def test_a_list_that_lags_a_little_gives_the_same_allocation(
    original: OriginalClient, sandbox: OriginalSandbox, ticks: SteppedTime
) -> None:
    sandbox.options.list_lag = 2.0
    sandbox.plan.script("drop_after_commit")
    allocation = await allocate(original)
    assert [operation.uid for operation in held(sandbox)] == [allocation.uid]
    assert ticks.slept == [0.25, 2.0]


async def test_a_list_that_lags_longer_is_never_a_rejection(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    sandbox.options.list_lag = 60.0
    sandbox.plan.script("drop_after_commit")
    with pytest.raises(OutcomeUnknown) as caught:
        await allocate(original)
    assert caught.value.status == 400
    assert isinstance(caught.value.__cause__, OutcomeUnknown)


async def test_a_nonce_the_vendor_says_it_knows_is_not_rejected_because_a_list_lags(
    original: OriginalClient, sandbox: OriginalSandbox, ticks: SteppedTime
) -> None:
    first = await allocate(original)
    sandbox.options.list_lag = 2.0
    again = await allocate(original)
    assert (again.uid, again.recovered) == (first.uid, True)
    sandbox.options.list_lag = 600.0
    ticks.slept.clear()
    with pytest.raises(OutcomeUnknown):
        await allocate(original)
    assert ticks.slept == [2.0]


async def test_the_same_call_again_gives_the_same_allocation(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    first = await allocate(original)
    again = await allocate(original, amount="1.2300")
    assert (again.uid, first.recovered, again.recovered) == (first.uid, False, True)
    await sandbox.settle(first.uid)
    assert (await allocate(original)).status == "done"


@pytest.mark.parametrize("changes", [{"amount": "1.24"}, {"reward_uid": OTHER_REWARD}])
async def test_a_nonce_of_another_amount_or_reward_is_a_conflict(
    original: OriginalClient, sandbox: OriginalSandbox, changes: dict[str, str]
) -> None:
    first = await allocate(original)
    with pytest.raises(Conflict) as caught:
        await allocate(original, **changes)
    said(f"create_allocation: the nonce has another {next(iter(changes))}", str(caught.value).replace(first.uid, "UID"))
    existing = caught.value.existing
    assert isinstance(existing, Allocation)
    assert (existing.uid, existing.amount, existing.reward_uid) == (first.uid, Decimal("1.23"), REWARD)
    assert caught.value.idempotency_key == "nonce_1"
    assert len(held(sandbox)) == 1


async def test_another_amount_is_a_conflict_after_a_lost_reply_too(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    await allocate(original)
    sandbox.plan.script("p503")
    with pytest.raises(Conflict):
        await allocate(original, amount="1.24")


async def test_another_reward_proves_nothing_about_an_attempt_that_may_have_arrived(
    original: OriginalClient, sandbox: OriginalSandbox
) -> None:
    await allocate(original)
    sandbox.plan.script("p503")
    with pytest.raises(OutcomeUnknown):
        await allocate(original, reward_uid=OTHER_REWARD)


async def test_a_nonce_of_another_user_is_not_found_among_this_users(original: OriginalClient) -> None:
    await allocate(original, to_user_uid="999")
    with pytest.raises(OutcomeUnknown):
        await allocate(original)


REFUSED = {"success": False, "error": {"type": "client_error", "detail": {"code": "bad_request", "message": "Too much."}}}
LIST = f"{BASE}/reward/allocate?user_uid={USER}"
OTHER_LIST = f"{BASE}/reward/allocation?user_uid={USER}"
HELD = {"uid": "1", "status": "pending", "reward_uid": REWARD, "to_user_uid": USER, "amount": "1.23", "nonce": "nonce_1"}


@pytest.mark.parametrize("status", [400, 404, 405, 409, 410, 422])
async def test_every_refusal_is_followed_by_a_look_up(client: OriginalClient, wire: aioresponses, status: int) -> None:
    wire.post(f"{BASE}/reward/allocate", status=status, payload=REFUSED)
    wire.get(LIST, payload={"success": True, "data": [{**HELD, "nonce": "other"}, HELD]})
    allocation = await allocate(client)
    assert (allocation.uid, allocation.recovered) == ("1", True)


async def test_a_refusal_stands_if_one_look_up_shows_nothing(
    client: OriginalClient, wire: aioresponses, ticks: SteppedTime
) -> None:
    wire.post(f"{BASE}/reward/allocate", status=400, payload=REFUSED)
    wire.get(LIST, payload={"success": True, "data": []})
    with pytest.raises(RequestRejected) as caught:
        await allocate(client)
    assert (caught.value.idempotency_key, caught.value.details[0].message) == ("nonce_1", "Too much.")
    assert ticks.slept == []


@pytest.mark.parametrize(
    "detail",
    [
        {"code": "bad_request", "message": "Nonce already used."},
        {"code": "unique", "message": "This field must be unique.", "field_name": "nonce"},
        [{"code": "x", "message": "y", "field_name": "amount"}, {"message": "Allocation with this nonce exists."}],
    ],
)
async def test_a_refusal_that_names_the_nonce_as_known_is_looked_up_twice(
    client: OriginalClient, wire: aioresponses, ticks: SteppedTime, detail: Any
) -> None:
    refusal = {"success": False, "error": {"type": "validation_error", "detail": detail}}
    wire.post(f"{BASE}/reward/allocate", status=400, payload=refusal)
    wire.get(LIST, payload={"success": True, "data": []}, repeat=True)
    with pytest.raises(OutcomeUnknown):
        await allocate(client)
    assert ticks.slept == [2.0]


async def test_a_refusal_of_the_nonce_as_such_stands(client: OriginalClient, wire: aioresponses) -> None:
    detail = {"code": "max_length", "message": "Ensure this field has no more than 50 characters.", "field_name": "nonce"}
    wire.post(
        f"{BASE}/reward/allocate",
        status=400,
        payload={"success": False, "error": {"type": "validation_error", "detail": detail}},
    )
    wire.get(LIST, payload={"success": True, "data": []})
    with pytest.raises(RequestRejected) as caught:
        await allocate(client)
    assert caught.value.details[0].message == detail["message"]


async def test_a_conflict_status_without_words_is_looked_up_twice(client: OriginalClient, wire: aioresponses) -> None:
    wire.post(f"{BASE}/reward/allocate", status=409)
    wire.get(LIST, payload={"success": True, "data": []}, repeat=True)
    with pytest.raises(OutcomeUnknown):
        await allocate(client)


@pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, Forbidden), (429, RateLimited)])
async def test_a_refusal_of_the_caller_is_not_looked_up(
    make_client: MakeClient, wire: aioresponses, status: int, kind: type[VendorError]
) -> None:
    wire.post(f"{BASE}/reward/allocate", status=status, repeat=True)
    with pytest.raises(kind):
        await allocate(make_client(retry=RetryPolicy(attempts=2)))
    assert {method for method, _ in wire.requests} == {"POST"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429])
async def test_a_refusal_after_an_attempt_that_may_have_arrived_is_looked_up_twice(
    client: OriginalClient, wire: aioresponses, status: int
) -> None:
    wire.post(f"{BASE}/reward/allocate", status=502)
    wire.post(f"{BASE}/reward/allocate", status=status, payload=REFUSED, repeat=True)
    wire.get(LIST, payload={"success": True, "data": []})
    wire.get(LIST, payload={"success": True, "data": [HELD]})
    assert (await allocate(client)).recovered


async def test_a_long_pause_asked_for_after_an_attempt_that_may_have_arrived_leaves_it_unknown(
    client: OriginalClient, wire: aioresponses
) -> None:
    wire.post(f"{BASE}/reward/allocate", status=502)
    wire.post(f"{BASE}/reward/allocate", status=429, headers={"Retry-After": "999"})
    with pytest.raises(OutcomeUnknown) as caught:
        await allocate(client)
    assert isinstance(caught.value.__cause__, RateLimited)


LOST: dict[str, dict[str, Any]] = {
    "rejected": {"status": 400, "payload": REFUSED},
    "HTTP 502": {"status": 502},
    "no answer": {"exception": aiohttp.ServerDisconnectedError()},
}
FAILED_LOOK_UPS: dict[str, dict[str, Any]] = {
    "HTTP 500": {"status": 500},
    "HTTP 403": {"status": 403},
    "HTTP 302": {"status": 302},
    "no JSON": {"status": 200, "body": b"nonsense"},
    "no answer": {"exception": aiohttp.ServerDisconnectedError()},
    "no connection": {"exception": aiohttp.ConnectionTimeoutError()},
    "no URL": {"exception": aiohttp.InvalidURL("nowhere")},
}


@pytest.mark.parametrize("lost", LOST)
async def test_a_look_up_that_fails_leaves_it_unknown(make_client: MakeClient, lost: str) -> None:
    texts = []
    for answer in FAILED_LOOK_UPS.values():
        with aioresponses() as wire:
            wire.post(f"{BASE}/reward/allocate", **LOST[lost])
            wire.get(LIST, repeat=True, **answer)
            with pytest.raises(OutcomeUnknown) as caught:
                await allocate(make_client(retry=RetryPolicy(attempts=1)))
        assert caught.value.status == LOST[lost].get("status")
        assert isinstance(caught.value.__cause__, RewardsError)
        texts.append(str(caught.value).partition(". It may")[0])
    said(f"create_allocation: {lost}, and a look-up that fails", "\n".join(texts))


async def test_a_list_that_is_nowhere_leaves_it_unknown(client: OriginalClient, wire: aioresponses) -> None:
    wire.post(f"{BASE}/reward/allocate", status=400, payload=REFUSED)
    wire.get(LIST, status=404)
    wire.get(OTHER_LIST, status=404)
    with pytest.raises(OutcomeUnknown) as caught:
        await allocate(client)
    assert isinstance(caught.value.__cause__, NotFound)


async def test_without_time_for_a_second_look_it_is_unknown(
    make_client: MakeClient, wire: aioresponses, ticks: SteppedTime
) -> None:
    wire.post(f"{BASE}/reward/allocate", status=502)
    wire.get(LIST, payload={"success": True, "data": []})
    with pytest.raises(OutcomeUnknown) as caught:
        await allocate(make_client(retry=RetryPolicy(attempts=1), timeouts=Timeouts(total=1.5)))
    said("create_allocation: no time for a second look-up", caught.value)
    assert ticks.slept == []


async def test_without_time_for_any_look_it_is_unknown(make_client: MakeClient, wire: aioresponses, ticks: SteppedTime) -> None:
    async def use_up_the_time(*_: Any, **__: Any) -> None:
        ticks.at += 60

    wire.post(f"{BASE}/reward/allocate", status=400, payload=REFUSED, callback=use_up_the_time)
    with pytest.raises(OutcomeUnknown) as caught:
        await allocate(make_client())
    assert caught.value.elapsed == 60
    assert [method for method, _ in wire.requests] == ["POST"]


async def test_a_client_closed_after_an_attempt_that_may_have_arrived_is_unknown(
    make_client: MakeClient, wire: aioresponses, ticks: SteppedTime
) -> None:
    client = make_client()
    ticks.meanwhile = client.aclose
    wire.post(f"{BASE}/reward/allocate", status=502)
    with pytest.raises(OutcomeUnknown) as caught:
        await allocate(client)
    assert isinstance(caught.value.__cause__, ClientClosed)


async def test_no_second_nonce_is_ever_made(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    for number in range(20):
        sandbox.plan.script("drop_after_commit", "p503_after_commit")
        await allocate(original, nonce=f"nonce_{number}")
    assert len(held(sandbox)) == 20
    assert {seen.json()["nonce"] for seen in posts(sandbox)} == {f"nonce_{number}" for number in range(20)}


FAULTS = ("p429", "p503", "drop_before_commit", "p503_after_commit", "drop_after_commit")
SEQUENCES = [[*faults, "none"] for times in range(3) for faults in itertools.product(FAULTS, repeat=times)] + [
    list(faults) for faults in itertools.product(FAULTS, repeat=3)
]
"""What happens to a call that is made three times at most, until nothing does."""


@pytest.mark.slow
@pytest.mark.repeats_itself
@pytest.mark.parametrize("mode", ["reject", "replay"])
@pytest.mark.parametrize("lag", [0.0, 1.0, 600.0])
async def test_no_sequence_of_faults_pays_twice_or_denies_a_payout(
    original: OriginalClient, sandbox: OriginalSandbox, mode: str, lag: float
) -> None:
    sandbox.options.duplicate_nonce, sandbox.options.list_lag = mode, lag
    for number, faults in enumerate(SEQUENCES):
        nonce = f"nonce_{number}"
        sandbox.plan.script(*faults)
        try:
            uid = (await allocate(original, nonce=nonce, amount=number + 1)).uid
        except OutcomeUnknown:
            uid = None
        except RateLimited:
            assert nonce not in sandbox.state.by_nonce, faults
            continue
        finally:
            sandbox.plan.steps.clear()
        under = [operation for operation in held(sandbox) if operation.nonce == nonce]
        assert len(under) <= 1, faults
        assert uid is None or [operation.uid for operation in under] == [uid], faults
        arrived = any("after_commit" in fault or fault == "none" for fault in faults)
        assert bool(under) == arrived, faults
        assert uid is not None or lag == 600.0 or not arrived, faults


@pytest.mark.slow
async def test_a_bad_day_with_many_at_once_ends_with_one_allocation_each(
    make_client: MakeClient, sandbox: OriginalSandbox
) -> None:
    for fault in ("p429", "p503", "p503_after_commit", "drop_after_commit", "drop_before_commit"):
        setattr(sandbox.options, fault, 0.05)
    client = make_client(base_url=sandbox.url, retry=RetryPolicy(attempts=8), timeouts=Timeouts(total=600.0))
    nonces = [f"nonce_{number}" for number in range(200)]
    made = await asyncio.gather(*(allocate(client, nonce=nonce, to_user_uid=f"{len(nonce)}") for nonce in nonces))
    assert {each.nonce: each.uid for each in made} == {operation.nonce: operation.uid for operation in held(sandbox)}
    assert sandbox.plan.counts["drop_after_commit"] > 0
    assert any(each.recovered for each in made)
