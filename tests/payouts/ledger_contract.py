"""The contract of every ledger.

Subclass `LedgerContract` and the contracts beside it in a test module with these fixtures:

* `open_ledger(**options)` returns a ledger to be entered with `async with`, by default of Original's campaign `diwali-2026`;
  all of a test are over one and the same database;
* `ledger` is one that is open;
* `read(look)` gives a `LedgerReader` of that database to `look`, off the loop, and returns its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias, TypeVar

import pytest

from payouts.keys import derive_key
from payouts.ledger.campaign import CampaignLedger
from payouts.ledger.reader import LedgerReader
from payouts.rows import Row
from payouts.states import Entry, InvalidTransition, KeyTaken, LedgerError, RowChanged, State
from payouts.vendors import EnkashRow, MintRow, OriginalRow

T = TypeVar("T")

OpenLedger: TypeAlias = "Callable[..., AbstractAsyncContextManager[CampaignLedger]]"


class Read(Protocol):
    """Looks into a ledger as another process would, off the loop."""

    async def __call__(self, look: Callable[[LedgerReader], T], /) -> T: ...


PATHS = {
    "original": {
        State.PLANNED: [],
        State.SENT: [State.SENT],
        State.ACCEPTED: [State.SENT, State.ACCEPTED],
        State.DONE: [State.SENT, State.ACCEPTED, State.DONE],
        State.FAILED: [State.SENT, State.ACCEPTED, State.FAILED],
        State.MISMATCH: [State.SENT, State.MISMATCH],
        State.REJECTED: [State.SENT, State.REJECTED],
        State.UNKNOWN: [State.SENT, State.UNKNOWN],
    },
    "enkash": {
        State.PLANNED: [],
        State.SENT: [State.SENT],
        State.DONE: [State.SENT, State.DONE],
        State.REJECTED: [State.SENT, State.REJECTED],
        State.UNKNOWN: [State.SENT, State.UNKNOWN],
    },
}
PATHS["original-mint"] = PATHS["original"]
EXPECTED_WAYS = {
    ("original", "planned"): {"sent"},
    ("original", "sent"): {"planned", "accepted", "mismatch", "rejected", "unknown"},
    ("original", "accepted"): {"done", "failed", "mismatch", "unknown"},
    ("original", "unknown"): {"unknown", "accepted", "mismatch", "done", "rejected"},
    ("original", "rejected"): {"planned", "unknown", "done"},
    ("original", "failed"): {"planned"},
    ("original-mint", "planned"): {"sent"},
    ("original-mint", "sent"): {"planned", "accepted", "mismatch", "rejected", "unknown"},
    ("original-mint", "accepted"): {"done", "failed", "mismatch", "unknown"},
    ("original-mint", "unknown"): {"unknown", "accepted", "mismatch", "done", "rejected"},
    ("original-mint", "rejected"): {"planned", "unknown", "done"},
    ("original-mint", "failed"): {"planned"},
    ("enkash", "planned"): {"sent"},
    ("enkash", "sent"): {"planned", "done", "rejected", "unknown"},
    ("enkash", "unknown"): {"unknown", "done", "rejected"},
    ("enkash", "rejected"): {"planned", "done"},
}
BY_HAND_ONLY = {("unknown", "rejected"), ("rejected", "unknown"), ("rejected", "done")}


def tokens(row_id: str = "r1", **changed: Any) -> OriginalRow:
    values: dict[str, Any] = {"id": row_id, "reward_uid": "21", "to_user_uid": "32", "amount": "1.50", "line": 2}
    return OriginalRow(**values | changed)


def coins(row_id: str = "r1", **changed: Any) -> EnkashRow:
    return EnkashRow(**{"id": row_id, "user_id": "EKQZVMQK", "event": "REFERRAL_EVENT"} | changed)


def mints(row_id: str = "r1", **changed: Any) -> MintRow:
    values: dict[str, Any] = {
        "id": row_id,
        "user_uid": "32",
        "collection_uid": "21",
        "name": "Badge",
        "image_url": "https://i/b.png",
    }
    return MintRow(**values | changed)


ROWS: Mapping[str, Callable[[str], Row]] = {"original": tokens, "original-mint": mints, "enkash": coins}


async def led_to(ledger: CampaignLedger, state: State, row: Row) -> Entry:
    (entry,) = await ledger.plan([row])
    for step in PATHS[ledger.vendor][state]:
        entry = await ledger.move(entry, step)
    return entry


class LedgerContract:
    """What a ledger acknowledges it keeps, and rows move only along their ways."""

    async def test_a_new_row_is_planned_with_the_key_that_follows_from_its_id(self, ledger: CampaignLedger) -> None:
        (entry,) = await ledger.plan([tokens()])
        assert entry == await ledger.find("r1")
        assert (entry.state, entry.amount, entry.line) == (State.PLANNED, "1.50", 2)
        assert entry.key == derive_key("original", "diwali-2026", "r1")

    async def test_the_key_follows_from_the_id_and_not_from_the_line(self, ledger: CampaignLedger) -> None:
        before = await ledger.plan([tokens("a", line=2), tokens("b", line=3)])
        assert await ledger.plan([tokens("new", line=2), tokens("a", line=3), tokens("b", line=4)])
        assert [(await ledger.find(entry.id)) for entry in before] == before

    async def test_a_key_that_the_file_brings_is_taken_as_it_is(self, ledger: CampaignLedger) -> None:
        (entry,) = await ledger.plan([tokens(nonce="order-17:a")])
        assert entry.key == "order-17:a"

    @pytest.mark.parametrize("vendor", ROWS)
    async def test_there_is_no_way_but_the_documented_ones(self, open_ledger: OpenLedger, vendor: str) -> None:
        async with open_ledger(vendor=vendor) as ledger:
            for state in PATHS[vendor]:
                for to in State:
                    entry = await led_to(ledger, state, ROWS[vendor](f"{state}-{to}"))
                    if (state.value, to.value) in BY_HAND_ONLY and to in EXPECTED_WAYS.get((vendor, state.value), ()):
                        with pytest.raises(InvalidTransition):
                            await ledger.move(entry, to, problem="by machine")
                        assert (await ledger.move(entry, to, settled_by="hand", note="seen")).state is to
                    elif to in EXPECTED_WAYS.get((vendor, state.value), ()):
                        assert (await ledger.move(entry, to)).state is to
                    else:
                        with pytest.raises(InvalidTransition) as refused:
                            await ledger.move(entry, to)
                        assert (refused.value.row_id, refused.value.state, refused.value.to) == (entry.id, state, to)
                        assert await ledger.find(entry.id) == entry

    async def test_a_stale_entry_moves_nothing(self, ledger: CampaignLedger) -> None:
        (stale,) = await ledger.plan([tokens()])
        await ledger.move(stale, State.SENT)
        with pytest.raises(InvalidTransition):
            await ledger.move(stale, State.SENT)

    async def test_a_known_row_comes_back_as_it_stands(self, ledger: CampaignLedger) -> None:
        done = await led_to(ledger, State.DONE, tokens())
        assert await ledger.plan([tokens(line=9), tokens(amount="1.5")]) == [done, done]

    @pytest.mark.parametrize(
        "changed",
        [{"amount": "1.51"}, {"to_user_uid": "33"}, {"reward_uid": "22"}, {"nonce": "another"}],
    )
    async def test_a_known_row_with_other_content_is_refused_and_both_are_shown(
        self, ledger: CampaignLedger, changed: dict[str, Any]
    ) -> None:
        await led_to(ledger, State.DONE, tokens())
        with pytest.raises(RowChanged) as refused:
            await ledger.plan([tokens("new"), tokens(**changed)])
        key = derive_key("original", "diwali-2026", "r1")
        assert {"1.50", "21", "32", key} <= set(refused.value.known.content.split())
        assert next(iter(changed.values())) in refused.value.given
        assert refused.value.known.content in str(refused.value)
        assert refused.value.given in str(refused.value)
        assert await ledger.find("new") is None

    async def test_what_a_row_mints_is_kept_whatever_becomes_of_it(self, open_ledger: OpenLedger) -> None:
        async with open_ledger(vendor="original-mint") as ledger:
            row = mints(
                attributes='[{"trait_type": "Base", "value": 1.50}]',
                description="Ein \u00e4u\u00dferst\nseltenes \u2728 Abzeichen",
            )
            rejected = await led_to(ledger, State.REJECTED, row)
            assert (rejected.amount, rejected.details) == (None, row.details)
            renewed = await ledger.renew_key(rejected)
            assert await ledger.plan([row]) == [renewed]
            assert renewed.details == row.details

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"name": "Medal"}, ", name Medal instead of Badge"),
            ({"image_url": "https://i/c.png"}, ", image_url https://i/c.png instead of https://i/b.png"),
            ({"unique_name": True}, ", unique_name true instead of false"),
            ({"sale_price_in_usd": "2.5"}, ", sale_price_in_usd 2.5 instead of nothing"),
        ],
    )
    async def test_a_row_that_now_mints_something_else_is_refused_and_the_column_named(
        self, open_ledger: OpenLedger, changed: dict[str, Any], told: str
    ) -> None:
        async with open_ledger(vendor="original-mint") as ledger:
            (planned,) = await ledger.plan([mints()])
            with pytest.raises(RowChanged) as refused:
                await ledger.plan([mints("new"), mints(**changed)])
            assert refused.value.given.endswith(told)
            assert await ledger.find("new") is None
            assert await ledger.plan([mints()]) == [planned]

    async def test_another_amount_of_coins_cannot_be_but_another_event_is_refused(self, open_ledger: OpenLedger) -> None:
        async with open_ledger(vendor="enkash") as ledger:
            await ledger.plan([coins()])
            with pytest.raises(RowChanged):
                await ledger.plan([coins(event="OTHER_EVENT")])

    async def test_two_rows_never_share_a_key(self, ledger: CampaignLedger) -> None:
        await ledger.plan([tokens("a", nonce="n1")])
        with pytest.raises(KeyTaken) as refused:
            await ledger.plan([tokens("b"), tokens("c", nonce="n1")])
        assert (refused.value.key, refused.value.row_id, refused.value.owner) == ("n1", "c", "a")
        assert refused.value.campaign == "diwali-2026"
        assert await ledger.find("b") is None

    async def test_campaigns_share_a_ledger_and_nothing_else(self, open_ledger: OpenLedger) -> None:
        keys = set()
        for vendor, campaign in [("original", "a"), ("original", "b"), ("enkash", "a")]:
            async with open_ledger(vendor=vendor, campaign=campaign) as ledger:
                (entry,) = await ledger.plan([tokens() if vendor == "original" else coins()])
                await ledger.move(entry, State.SENT)
                assert await ledger.counts() == {State.SENT: 1}
                keys.add(entry.key)
        assert len(keys) == 3

    async def test_both_vendors_may_know_the_same_key(self, open_ledger: OpenLedger) -> None:
        async with open_ledger() as ledger:
            await ledger.plan([tokens(nonce="order-17")])
        async with open_ledger(vendor="enkash") as ledger:
            assert (await ledger.plan([coins(request_id="order-17")]))[0].key == "order-17"

    async def test_a_campaign_stays_where_it_was_begun(self, open_ledger: OpenLedger) -> None:
        async with open_ledger(target="https://api-dev.getoriginal.com/v1"):
            pass
        async with open_ledger():
            pass
        with pytest.raises(LedgerError, match=r"https://api-dev.getoriginal.com/v1"):
            await open_ledger(target="https://api.getoriginal.com/v1").__aenter__()
        async with open_ledger(campaign="another", target="https://api.getoriginal.com/v1"):
            pass

    async def test_a_closing_slash_makes_no_other_place(self, open_ledger: OpenLedger) -> None:
        for target in ("https://api.example/v1/", "https://api.example/v1", "https://api.example/v1/"):
            async with open_ledger(target=target):
                pass

    @pytest.mark.parametrize("state", [State.REJECTED, State.FAILED])
    async def test_a_retry_plans_the_row_with_a_new_key_linked_to_the_old(
        self, ledger: CampaignLedger, read: Read, state: State
    ) -> None:
        ended = await led_to(ledger, state, tokens())
        renewed = await ledger.renew_key(ended)
        assert (renewed.state, renewed.retries, renewed.uid, renewed.sent_at) == (State.PLANNED, 1, None, None)
        assert renewed.key == derive_key("original", "diwali-2026", "r1", retry=1)
        (retired,) = await read(lambda reader: list(reader.retired_keys(reader.campaign())))
        assert (retired.row_id, retired.retry, retired.state) == ("r1", 0, state)
        assert (retired.key, retired.replaced_by) == (ended.key, renewed.key)
        assert await ledger.plan([tokens()]) == [renewed]
        with pytest.raises(RowChanged):
            await ledger.plan([tokens(nonce="another")])

    async def test_a_retried_row_is_known_by_the_key_its_file_brings_and_nobody_else_may_bring_it(
        self, ledger: CampaignLedger
    ) -> None:
        entry = await led_to(ledger, State.REJECTED, tokens(nonce="n1"))
        renewed = await ledger.renew_key(entry)
        assert await ledger.plan([tokens(nonce="n1")]) == [renewed]
        with pytest.raises(KeyTaken) as refused:
            await ledger.plan([tokens("r2", nonce="n1")])
        assert refused.value.owner == "r1"
        assert await ledger.plan([tokens(nonce=renewed.key)]) == [renewed]  # as results.csv says it

    @pytest.mark.parametrize("state", [State.PLANNED, State.SENT, State.ACCEPTED, State.DONE, State.MISMATCH, State.UNKNOWN])
    async def test_no_other_state_gets_a_new_key(self, ledger: CampaignLedger, state: State) -> None:
        entry = await led_to(ledger, state, tokens())
        with pytest.raises(InvalidTransition):
            await ledger.renew_key(entry)

    async def test_a_row_is_renewed_once_however_many_saw_it_rejected(self, ledger: CampaignLedger) -> None:
        entry = await led_to(ledger, State.REJECTED, tokens())
        await ledger.renew_key(entry)
        with pytest.raises(InvalidTransition):
            await ledger.renew_key(entry)

    async def test_a_row_settled_by_hand_keeps_the_error_and_the_note(self, ledger: CampaignLedger) -> None:
        entry = await led_to(ledger, State.SENT, tokens())
        entry = await ledger.move(entry, State.UNKNOWN, problem=TimeoutError("no answer"))
        entry = await ledger.move(entry, State.DONE, settled_by="hand", note="seen in the console")
        assert (entry.problem_kind, entry.problem) == ("TimeoutError", "no answer")
        assert (entry.note, entry.settled_by) == ("seen in the console", "hand")
        assert entry == await ledger.find("r1")

    async def test_rows_are_read_in_pages(self, ledger: CampaignLedger) -> None:
        await ledger.plan([tokens(f"r{number}") for number in range(5)])
        first = await ledger.entries([State.PLANNED], limit=3)
        rest = await ledger.entries([State.PLANNED, State.SENT], after=first[-1].number)
        assert [entry.id for entry in first + rest] == ["r0", "r1", "r2", "r3", "r4"]
        assert await ledger.entries([State.SENT]) == []

    async def test_a_refused_step_does_not_touch_the_others_of_its_group(self, ledger: CampaignLedger) -> None:
        first, second = await ledger.plan([tokens("a"), tokens("b")])
        stale = await ledger.move(first, State.SENT)
        steps = [ledger.move(second, State.SENT), ledger.move(first, State.SENT), ledger.move(stale, State.ACCEPTED)]
        moved, refused, accepted = await asyncio.gather(*steps, return_exceptions=True)
        assert isinstance(refused, InvalidTransition)
        assert [await ledger.find("b"), await ledger.find("a")] == [moved, accepted]
        assert await ledger.counts() == {State.SENT: 1, State.ACCEPTED: 1}

    async def test_rows_that_move_together_all_move_or_none(self, ledger: CampaignLedger) -> None:
        first, second, third = await ledger.plan([tokens("a"), tokens("b"), tokens("c")])
        await ledger.move(third, State.SENT)
        with pytest.raises(InvalidTransition, match="Row c"):
            await ledger.move_all([(first, State.SENT, {}), (second, State.SENT, {}), (third, State.SENT, {})])
        assert [await ledger.find("a"), await ledger.find("b")] == [first, second]
        moved = await ledger.move_all([(first, State.SENT, {}), (second, State.SENT, {})])
        assert [await ledger.find("a"), await ledger.find("b")] == moved

    async def test_a_row_cannot_move_twice_at_once(self, ledger: CampaignLedger) -> None:
        first, second = await ledger.plan([tokens("a"), tokens("b")])
        with pytest.raises(InvalidTransition, match="Row a"):
            await ledger.move_all([(first, State.SENT, {}), (second, State.SENT, {}), (first, State.SENT, {})])
        assert await ledger.counts() == {State.PLANNED: 2}

    async def test_two_rows_of_one_chunk_cannot_bring_one_key(self, ledger: CampaignLedger) -> None:
        with pytest.raises(KeyTaken) as refused:
            await ledger.plan([tokens("a", nonce="n1"), tokens("b", nonce="n2"), tokens("c", nonce="n1")])
        assert (refused.value.row_id, refused.value.owner) == ("c", "a")
        assert await ledger.counts() == {}

    async def test_many_rows_are_taken_up_together_or_not_at_all(self, ledger: CampaignLedger) -> None:
        await ledger.plan([tokens("owner", nonce="n1")])
        with pytest.raises(KeyTaken, match="Row last"):
            await ledger.plan([*(tokens(f"r{number}") for number in range(1300)), tokens("last", nonce="n1")])
        assert await ledger.counts() == {State.PLANNED: 1}

    async def test_many_rows_are_planned_and_moved_in_one_go(self, ledger: CampaignLedger) -> None:
        rows = [tokens(f"r{number}") for number in range(1300)]
        moved = await ledger.move_all([(entry, State.SENT, {}) for entry in await ledger.plan(rows)])
        assert await ledger.plan(rows) == moved

    async def test_trouble_and_plain_sailing_may_move_together(self, ledger: CampaignLedger) -> None:
        first, second = await ledger.plan([tokens("a"), tokens("b")])
        first = await ledger.move(await ledger.move(first, State.SENT), State.PLANNED, problem="not reached")
        moved = await ledger.move_all([(second, State.SENT, {}), (first, State.SENT, {})])
        assert [entry.problem for entry in moved] == [None, None]
        assert [await ledger.find("b"), await ledger.find("a")] == moved
        ended = await ledger.move_all([(moved[0], State.ACCEPTED, {"uid": "1"}), (moved[1], State.REJECTED, {"problem": "no"})])
        assert [await ledger.find("b"), await ledger.find("a")] == ended

    @pytest.mark.parametrize(
        "facts", [{}, {"uid": "9", "settled_by": "lookup"}, {"problem": "said no"}], ids=["plain", "found", "refused"]
    )
    @pytest.mark.parametrize(("vendor", "state"), EXPECTED_WAYS)
    async def test_what_a_move_returns_is_what_the_ledger_holds(
        self, open_ledger: OpenLedger, vendor: str, state: str, facts: Any
    ) -> None:
        async with open_ledger(vendor=vendor) as ledger:
            for number, to in enumerate(sorted(EXPECTED_WAYS[vendor, state])):
                (entry,) = await ledger.plan([ROWS[vendor](f"r{number}")])
                for step in PATHS[vendor][State(state)]:
                    entry = await ledger.move(entry, step, **({"uid": "1"} if step is State.ACCEPTED else {}))
                if (state, to) not in BY_HAND_ONLY and to not in {"planned", "sent"}:
                    moved = await ledger.move(entry, State(to), **facts)
                    assert await ledger.find(entry.id) == moved

    @pytest.mark.parametrize("odd", ["\0", "\ud800"])
    async def test_no_text_of_a_vendor_keeps_an_answer_from_being_stored(self, ledger: CampaignLedger, odd: str) -> None:
        entry = await led_to(ledger, State.SENT, tokens())
        moved = await ledger.move(entry, State.REJECTED, problem=ValueError(f"no{odd}such\nuser"))
        assert moved == await ledger.find("r1")
        assert moved.problem in {"no\ufffdsuch\nuser", "no?such\nuser"}
