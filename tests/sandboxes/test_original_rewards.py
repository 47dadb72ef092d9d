"""The sandboxed Original allocates and claims rewards, and keeps its books of them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.sandboxes.conftest import HOUR, USER, complaints, refusal
from vendor_sandboxes import OriginalSandbox

if TYPE_CHECKING:
    from tests.sandboxes.conftest import Caller

CallerOf = Callable[[OriginalSandbox], "Caller"]
REWARD = "764893807463"


# allocations


async def test_allocation_is_created_read_and_listed(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        created = await caller.allocate("nonce_1")
        assert (created.status, created.headers["Content-Type"]) == (201, "application/json")
        assert set(created.data) == {"uid"}
        uid = created.data["uid"]
        read = (await caller.call("GET", f"/reward/allocate/{uid}")).data
        assert list(read) == ["uid", "status", "reward_uid", "to_user_uid", "amount", "nonce", "created_at"]
        assert {**read, "created_at": ""} == {
            "uid": uid,
            "status": "pending",
            "reward_uid": REWARD,
            "to_user_uid": USER,
            "amount": Decimal("1.23"),
            "nonce": "nonce_1",
            "created_at": "",
        }
        assert (await caller.call("GET", f"/reward/allocate?user_uid={USER}")).data == [read]
        assert (await caller.call("GET", "/reward/allocate?user_uid=nobody")).data == []


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ('"1.23"', "1.23"),
        ('"1.230"', "1.230"),
        ('"007.5"', "7.5"),
        ("1.230", "1.230"),
        ("7", "7"),
        ("1e3", "1000"),
        ("123456789012345678901234567890.123456789012345678", "123456789012345678901234567890.123456789012345678"),
        ('"123456789012345678901234567890.123456789012345678"', "123456789012345678901234567890.123456789012345678"),
        ("0.000000000000000001", "0.000000000000000001"),
    ],
)
@pytest.mark.parametrize("amounts", ["string", "number"])
async def test_amounts_survive_to_the_last_digit(caller_of: CallerOf, sent: str, kept: str, amounts: str) -> None:
    async with OriginalSandbox(confirm=None, amounts=amounts) as sandbox:
        caller = caller_of(sandbox)
        body = f'{{"reward_uid": "{REWARD}", "to_user_uid": "{USER}", "amount": {sent}, "nonce": "n"}}'.encode()
        uid = (await caller.call("POST", "/reward/allocate", body)).data["uid"]
        read = await caller.call("GET", f"/reward/allocate/{uid}")
        assert f'"amount": {kept if amounts == "number" else chr(34) + kept + chr(34)},' in read.text
        assert sandbox.books()["allocations"][0]["amount"] == kept
        await sandbox.settle(uid)
        balance = await caller.call("GET", f"/reward/balance?reward_uid={REWARD}&user_uid={USER}")
        assert Decimal(balance.data["amount"]) == Decimal(kept)
        assert isinstance(balance.data["amount"], str) == (amounts == "string")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"nonce": ...}, {("nonce", "required")}),
        ({"nonce": None}, {("nonce", "null")}),
        ({"nonce": " "}, {("nonce", "blank")}),
        ({"nonce": 7}, {("nonce", "invalid")}),
        ({"to_user_uid": ..., "user_uid": USER}, {("to_user_uid", "required")}),
        ({"reward_uid": "", "amount": None}, {("reward_uid", "blank"), ("amount", "null")}),
        ({"amount": ...}, {("amount", "required")}),
        ({"amount": True}, {("amount", "invalid")}),
        ({"amount": [1]}, {("amount", "invalid")}),
        ({"amount": "1e3"}, {("amount", "invalid")}),
        ({"amount": "1_000"}, {("amount", "invalid")}),
        ({"amount": "\u0661"}, {("amount", "invalid")}),
        ({"amount": "NaN"}, {("amount", "invalid")}),
        ({"amount": 10**70}, {("amount", "invalid")}),
        ({"amount": "0"}, {("amount", "min_value")}),
        ({"amount": "-1"}, {("amount", "min_value")}),
        ({"amount": -1.5}, {("amount", "min_value")}),
    ],
)
async def test_bad_fields_are_named_with_their_code(
    caller_of: CallerOf, changes: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    async with OriginalSandbox() as sandbox:
        assert complaints(await caller_of(sandbox).allocate(**changes)) == expected
        assert sandbox.books()["allocations"] == []


async def test_known_nonce_is_refused_whatever_else_is_asked(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        await caller.allocate("nonce_1")
        for changes in ({}, {"amount": "9"}, {"to_user_uid": "another", "reward_uid": "another"}):
            assert refusal(await caller.allocate("nonce_1", **changes)) == (400, "bad_request", "nonce already used")
        books = sandbox.books()
        assert (books["created"], books["asked"]) == ({"nonce_1": 1}, {"nonce_1": 4})


@pytest.mark.parametrize(("status", "code"), [(400, "bad_request"), (409, "conflict"), (422, "bad_request")])
async def test_known_nonce_is_refused_in_the_chosen_words(caller_of: CallerOf, status: int, code: str) -> None:
    words = "Allocation with this nonce exists."
    async with OriginalSandbox(confirm=None, known_nonce_text=words, known_nonce_status=status) as sandbox:
        caller = caller_of(sandbox)
        await caller.allocate("nonce_1")
        assert refusal(await caller.allocate("nonce_1")) == (status, code, words)
        assert sandbox.books()["created"] == {"nonce_1": 1}


async def test_known_nonce_is_replayed_with_the_first_uid_and_the_first_amount(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, duplicate_nonce="replay") as sandbox:
        caller = caller_of(sandbox)
        first = await caller.allocate("nonce_1", amount="1")
        again = await caller.allocate("nonce_1", amount="2")
        assert (again.status, again.data) == (201, first.data)
        assert [(entry["uid"], entry["amount"]) for entry in sandbox.books()["allocations"]] == [(first.data["uid"], "1")]


@pytest.mark.parametrize(
    ("read_path", "served"), [("allocation", {"allocation"}), ("allocate", {"allocate"}), ("both", {"allocation", "allocate"})]
)
async def test_allocations_are_read_under_the_chosen_path_alone(caller_of: CallerOf, read_path: str, served: set[str]) -> None:
    async with OriginalSandbox(confirm=None, read_path=read_path) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.allocate()).data["uid"]
        for word in ("allocation", "allocate"):
            one = await caller.call("GET", f"/reward/{word}/{uid}")
            several = await caller.call("GET", f"/reward/{word}?user_uid={USER}")
            if word in served:
                assert one.data["uid"] == several.data[0]["uid"] == uid
            else:
                assert (one.status, one.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
                assert refusal(several) == (404, "not_found", "Reward not found.")


async def test_list_lags_behind_and_catches_up(caller_of: CallerOf) -> None:
    now = 1_700_000_000.0
    async with OriginalSandbox(confirm=None, list_lag=5, clock=lambda: now) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.allocate()).data["uid"]
        assert (await caller.call("GET", f"/reward/allocate?user_uid={USER}")).data == []
        assert (await caller.call("GET", f"/reward/allocate/{uid}")).status == 200
        now += 5
        assert len((await caller.call("GET", f"/reward/allocate?user_uid={USER}")).data) == 1


async def test_uid_is_unknown_until_the_read_lag_is_over(caller_of: CallerOf) -> None:
    now = 1_700_000_000.0
    async with OriginalSandbox(confirm=None, read_lag=5, clock=lambda: now) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.allocate()).data["uid"]
        assert refusal(await caller.call("GET", f"/reward/allocate/{uid}")) == (404, "not_found", "Allocation not found.")
        now += 5
        assert (await caller.call("GET", f"/reward/allocate/{uid}")).data["created_at"] == "2023-11-14T22:13:20.000000Z"


# the chain


async def test_failed_allocation_moves_nothing(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=(0, 0), fail_rate=1) as sandbox:
        uid = (await caller_of(sandbox).allocate()).data["uid"]
        await sandbox.until(lambda: sandbox.state.operations["allocation"][uid].status != "pending")
        books = sandbox.books()
        assert (books["allocations"][0]["history"], books["balances"]) == (["pending", "failed"], [])
        assert books["faults"] == {"fail_rate": 1}


async def test_allocation_that_reads_failed_may_be_done_later(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=(0, 0), fail_then_done=1) as sandbox:
        uid = (await caller_of(sandbox).allocate()).data["uid"]
        await sandbox.until(lambda: sandbox.state.operations["allocation"][uid].done)
        (entry,) = sandbox.books()["allocations"]
        assert entry["history"] == ["pending", "failed", "done"]
        assert entry["committed_at"] <= entry["confirmed_at"]


async def test_nothing_confirms_until_it_is_settled_by_hand(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, fail_then_done=1) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.allocate()).data["uid"]
        assert sandbox.books()["allocations"][0]["confirmed_at"] is None
        for status in ("failed", "Done", "reversed"):
            await sandbox.settle(uid, status)
            assert (await caller.call("GET", f"/reward/allocate/{uid}")).data["status"] == status
        assert sandbox.books()["balances"][0]["amount"] == "0.00"
        with pytest.raises(KeyError):
            await sandbox.settle("000000000000")


async def test_settling_by_hand_wins_over_the_chain(caller_of: CallerOf, pass_an_hour: Callable[[], None]) -> None:
    async with OriginalSandbox(confirm=(HOUR, HOUR), fail_then_done=1) as sandbox:
        caller = caller_of(sandbox)
        first, second = [(await caller.allocate(nonce)).data["uid"] for nonce in ("nonce_1", "nonce_2")]
        await sandbox.settle(first, "frozen")
        pass_an_hour()
        await sandbox.until(lambda: sandbox.books()["allocations"][1]["status"] == "failed")
        await sandbox.settle(second, "frozen")
        pass_an_hour()
        await sandbox.quiet()
        histories = [entry["history"] for entry in sandbox.books()["allocations"]]
        assert histories == [["pending", "frozen"], ["pending", "failed", "frozen"]]


# claims, balances, rewards


async def test_claim_takes_everything_and_gives_it_back_if_it_fails(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        for number in range(3):
            await sandbox.settle((await caller.allocate(f"nonce_{number}")).data["uid"])
        claim = (await caller.claim()).data["uid"]
        read = (await caller.call("GET", f"/reward/claim/{claim}")).data
        assert list(read) == ["uid", "status", "reward_uid", "from_user_uid", "to_address", "amount", "created_at"]
        assert (read["status"], read["amount"]) == ("pending", Decimal("3.69"))
        balance = f"/reward/balance?reward_uid={REWARD}&user_uid={USER}"
        await sandbox.settle(claim, kind="claim")
        assert (await caller.call("GET", balance)).data == {"reward_uid": REWARD, "user_uid": USER, "amount": Decimal("0.00")}
        await sandbox.settle(claim, "failed", kind="claim")
        assert (await caller.call("GET", balance)).data["amount"] == Decimal("3.69")
        assert [one["uid"] for one in (await caller.call("GET", f"/reward/claim?user_uid={USER}")).data] == [claim]
        (entry,) = sandbox.books()["claims"]
        assert (entry["from_user_uid"], entry["amount"], entry["status"]) == (USER, "3.69", "failed")


async def test_claim_may_bear_the_uid_of_an_allocation(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        assert (await caller.allocate()).data == (await caller.claim()).data


@pytest.mark.parametrize(("address", "code"), [("0x12", "invalid"), ("", "blank"), (None, "null")])
async def test_claim_needs_a_wallet(caller_of: CallerOf, address: str | None, code: str) -> None:
    async with OriginalSandbox() as sandbox:
        assert complaints(await caller_of(sandbox).claim(to_address=address)) == {("to_address", code)}


async def test_strict_sandbox_refuses_what_it_does_not_know(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, strict=True) as sandbox:
        caller = caller_of(sandbox)
        assert refusal(await caller.allocate()) == (404, "not_found", "User not found.")
        user = (await caller.call("POST", "/user", {})).data["uid"]
        assert refusal(await caller.allocate(to_user_uid=user, reward_uid="000")) == (404, "not_found", "Reward not found.")
        assert refusal(await caller.claim(from_user_uid=user)) == (400, "bad_request", "There is nothing to claim.")
        await sandbox.settle((await caller.allocate(to_user_uid=user)).data["uid"])
        assert (await caller.claim(from_user_uid=user)).status == 201
        assert refusal(await caller.claim(from_user_uid=user)) == (400, "bad_request", "A claim of this user is pending.")


async def test_reward_is_known_if_listed_or_allocated(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, rewards=["r-1"]) as sandbox:
        caller = caller_of(sandbox)
        assert (await caller.call("GET", "/reward/r-1")).data["uid"] == "r-1"
        assert refusal(await caller.call("GET", "/reward/r%2F2")) == (404, "not_found", "Reward not found.")
        await caller.allocate(reward_uid="r/2")
        assert (await caller.call("GET", "/reward/r%2F2")).data["uid"] == "r/2"


async def test_reward_names_the_account_it_withdraws_to(caller_of: CallerOf) -> None:
    async with OriginalSandbox() as sandbox:
        caller = caller_of(sandbox)
        first, second = [
            (await caller.call("GET", f"/reward/{uid}")).data["withdraw_receiver"] for uid in (REWARD, "112144981245")
        ]
        assert first == second == "0x4881ab2f73c48a54b907a8b697b270f490768e6d"
