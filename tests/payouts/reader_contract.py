"""The contract of ledger readers, and of the records of audits and decisions. It uses the fixtures of `ledger_contract`."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from payouts import money
from payouts.audit import records
from payouts.audit.absence import record_absent
from payouts.audit.balances import snapshot
from payouts.audit.comparison import ComparisonResult, Finding
from payouts.audit.records import Scope
from payouts.ledger import decisions
from payouts.ledger.campaign import CampaignLedger
from payouts.ledger.fingerprints import fingerprint
from payouts.ledger.reader import LedgerReader
from payouts.pipeline.preflight import Preflight
from payouts.report.figures import gather, summarize
from payouts.states import CampaignUnclear, State
from tests.payouts.ledger_contract import OpenLedger, Read, coins, led_to, tokens

TARGET = "https://api.example/v1"
AT = 2_000_000_000.0


def scope(ledger: CampaignLedger, **changed: Any) -> Scope:
    options: dict[str, Any] = {"vendor": "original", "target": TARGET, "campaigns": frozenset({ledger.number})}
    return Scope(**options | changed)


class ReaderContract:
    """What is read is what the ledger holds."""

    async def test_rows_are_read_as_they_stand(self, ledger: CampaignLedger, read: Read) -> None:
        entry = await led_to(ledger, State.SENT, tokens())
        assert await read(lambda reader: list(reader.entries(reader.campaign("diwali-2026", "original")))) == [entry]
        assert await read(lambda reader: list(reader.entries(reader.campaign(), [State.DONE]))) == []
        assert await read(lambda reader: reader.find(reader.campaign(), "r2")) is None
        assert await read(lambda reader: reader.counts(reader.campaign())) == {State.SENT: 1}
        accepted = await ledger.move(entry, State.ACCEPTED, uid="1")
        assert await read(lambda reader: reader.find(reader.campaign(), "r1")) == accepted

    async def test_nothing_is_in_no_state_and_in_no_campaign(self, ledger: CampaignLedger, read: Read) -> None:
        await ledger.plan([tokens()])
        assert await ledger.entries([]) == []
        assert await read(lambda reader: list(reader.entries(reader.campaign(), []))) == []
        assert await read(lambda reader: list(reader.recipients([]))) == []
        assert await read(lambda reader: list(reader.differences(1, []))) == []

    @pytest.mark.parametrize(
        "ask",
        [
            lambda reader, wrong: reader.counts(wrong),
            lambda reader, wrong: list(reader.sums(wrong)),
            lambda reader, wrong: list(reader.entries(wrong)),
            lambda reader, wrong: reader.find(wrong, "r1"),
            lambda reader, wrong: reader.last_audit(wrong),
            lambda reader, wrong: list(reader.retired_keys(wrong)),
        ],
        ids=["counts", "sums", "entries", "find", "last_audit", "retired_keys"],
    )
    async def test_a_campaign_is_not_taken_by_its_name(self, ledger: CampaignLedger, read: Read, ask: Any) -> None:
        del ledger
        with pytest.raises(TypeError, match=r"^campaign: give Campaign\(\.\.\.\), not "):
            await read(lambda reader: ask(reader, "diwali-2026"))

    async def test_a_closed_reader_is_closed_again_without_effect(self, ledger: CampaignLedger, read: Read) -> None:
        del ledger

        def close_twice(reader: LedgerReader) -> None:
            reader.close()
            reader.close()

        await read(close_twice)

    async def test_a_reader_asks_which_campaign_where_there_are_several(self, open_ledger: OpenLedger, read: Read) -> None:
        for campaign in "ab":
            async with open_ledger(campaign=campaign):
                pass
        assert (await read(lambda reader: reader.campaign("b"))).name == "b"
        with pytest.raises(CampaignUnclear, match=r"a \(original\), b \(original\)"):
            await read(lambda reader: reader.campaign())
        with pytest.raises(CampaignUnclear, match="no campaign c"):
            await read(lambda reader: reader.campaign("c"))

    async def test_a_key_is_its_rows_also_after_a_retry(self, ledger: CampaignLedger, read: Read) -> None:
        old = await led_to(ledger, State.REJECTED, tokens())
        renewed = await ledger.renew_key(old)
        owners = await read(lambda reader: reader.owners_of_keys("original", [old.key, renewed.key, "none"]))
        assert owners == dict.fromkeys([old.key, renewed.key], ("r1", "diwali-2026"))
        assert await read(lambda reader: reader.owners_of_keys("enkash", [old.key])) == {}
        assert await read(lambda reader: reader.first_keys([renewed])) == await read(lambda reader: reader.first_keys([old]))
        assert await read(lambda reader: reader.first_keys([renewed])) == {"r1": old.key}
        assert await ledger.other_keys(renewed) == {old.key}

    async def test_rows_that_are_alike_are_found(self, ledger: CampaignLedger, read: Read) -> None:
        await ledger.renew_key(await led_to(ledger, State.REJECTED, tokens("R1")))
        again = await led_to(ledger, State.REJECTED, tokens("r2"))
        paid = await led_to(ledger, State.DONE, tokens("r3"))
        renewed = await ledger.find("R1")
        assert renewed is not None
        alike = fingerprint(paid.recipient, paid.item, paid.amount)
        assert await read(lambda reader: reader.paid_alike("original", [alike, "none"])) == {alike: [ledger.number]}
        may_be_sent = ["R1"] if await read(lambda reader: reader.shared) else []  # it is planned
        assert await read(lambda reader: list(reader.ids_alike(reader.campaign(), alike))) == [*may_be_sent, "r3"]
        assert await read(lambda reader: reader.paid_after_failure(renewed))
        assert not await read(lambda reader: reader.paid_after_failure(again))
        grants = [("r1", "32"), ("r9", "32"), ("R1", "32"), ("r3", "32")]
        assert await read(lambda reader: reader.respelled(reader.campaign(), grants)) == {"r1": "R1"}
        assert await read(lambda reader: reader.find_each(reader.campaign(), ["r3", "r9"])) == {"r3": paid}
        assert await read(lambda reader: list(reader.recipients([reader.campaign()]))) == ["32"]
        assert await read(lambda reader: reader.lost_campaigns("original")) == []

    async def test_a_large_ledger_is_read_in_parts(
        self, open_ledger: OpenLedger, read: Read, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("payouts.ledger.reader.PAGE", 2)
        monkeypatch.setattr("payouts.ledger.stretches.STRETCH", 5)
        for begin in range(0, 28, 4):
            names = [f"r{number}" for number in range(begin, begin + 4)]
            async with open_ledger(campaign="a") as one:
                await one.plan([tokens(name, to_user_uid=f"u{number % 3}") for number, name in enumerate(names)])
            async with open_ledger(campaign="b") as other:
                await other.move_each([(row, State.SENT, {}) for row in await other.plan([tokens(name) for name in names])])
        async with open_ledger(campaign="a") as one:
            for number in (3, 26):
                entry = await led_to(one, State.REJECTED, tokens(f"r{number}", to_user_uid=f"u{number % 4 % 3}"))
                again = await one.move(await one.renew_key(entry), State.SENT)
                await one.renew_key(await one.move(again, State.REJECTED, problem="no"))
            known = {entry.number: entry for entry in await one.entries(tuple(State), limit=100)}
            assert await one.counts() == {State.PLANNED: 28}
        expected = [known[number] for number in sorted(known)]
        begin, end = expected[3].number, expected[20].number

        def look(reader: LedgerReader) -> None:
            campaign = reader.campaign("a")
            assert list(reader.entries(campaign)) == expected
            assert list(reader.entries(campaign, after=begin, until=end)) == expected[4:21]
            assert sorted(reader.recipients([campaign])) == ["u0", "u1", "u2"]
            retired = [(key.row_id, key.retry) for key in reader.retired_keys(campaign)]
            assert retired == [("r3", 0), ("r3", 1), ("r26", 0), ("r26", 1)]
            alike = fingerprint("32", "21", "1.50")
            assert list(reader.ids_alike(reader.campaign("b"), alike)) == [f"r{number}" for number in range(28)]

        await read(look)

    async def test_sums_are_exact(self, ledger: CampaignLedger, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("payouts.ledger.stretches.STRETCH", 2)
        amounts = ["9" * 60 + "." + "9" * 30, "0." + "0" * 29 + "1", "0.1", "0.20", "7"]
        rows = [tokens(f"r{number}", amount=amount, reward_uid=str(number % 2)) for number, amount in enumerate(amounts)]
        await ledger.plan(rows)
        await led_to(ledger, State.DONE, rows[2])
        summed: dict[tuple[str, State], tuple[int, Decimal]] = {}
        for each in await read(lambda reader: list(reader.sums(reader.campaign()))):
            assert each.first <= each.last
            count, total = summed.get((each.item, each.state), (0, money.ZERO))
            summed[each.item, each.state] = (count + each.rows, money.add(total, each.amount or money.ZERO))
        assert {key: (count, money.text(total)) for key, (count, total) in summed.items()} == {
            ("0", State.PLANNED): (2, "1" + "0" * 59 + "6." + "9" * 30),
            ("0", State.DONE): (1, "0.1"),
            ("1", State.PLANNED): (2, "0.2" + "0" * 28 + "1"),
        }

    async def test_coins_have_no_sum(self, open_ledger: OpenLedger, read: Read) -> None:
        async with open_ledger(vendor="enkash") as ledger:
            await ledger.plan([coins("a"), coins("b")])
            (only,) = await read(lambda reader: list(reader.sums(reader.campaign())))
        assert (only.rows, only.amount) == (2, None)

    async def test_a_summary_is_what_the_rows_add_up_to(
        self, ledger: CampaignLedger, read: Read, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("payouts.ledger.stretches.STRETCH", 3)
        monkeypatch.setattr("payouts.report.figures.STRETCH", 3)
        monkeypatch.setattr("payouts.report.figures.MAX_ITEMS", 3)
        await ledger.plan([tokens(f"r{number}", reward_uid=str(number // 4)) for number in range(20)])
        for number, state in {2: State.DONE, 7: State.UNKNOWN, 9: State.FAILED, 15: State.UNKNOWN, 16: State.SENT}.items():
            await led_to(ledger, state, tokens(f"r{number}", reward_uid=str(number // 4)))

        def look(reader: LedgerReader) -> None:
            said, not_done = summarize(reader, reader.campaign())
            whole = gather(reader, reader.campaign())
            assert (said.counts, said.items, said.more_items) == (whole.counts, whole.items, whole.more_items)
            assert (list(said.items), said.more_items) == (["0", "1", "2"], 8)
            assert [entry.id for entry in not_done][:5] == ["r7", "r15", "r9", "r16", "r0"]
            assert list(summarize(reader, reader.campaign())[1]) == whole.open

        await read(look)

    async def test_a_file_is_compared_row_by_row(self, open_ledger: OpenLedger, read: Read) -> None:
        async with open_ledger(campaign="old") as old:
            await led_to(old, State.DONE, tokens("a", to_user_uid="u1"))
            await old.plan([tokens("b", to_user_uid="u2", nonce="n2")])
        async with open_ledger() as ledger:
            await ledger.plan(
                [tokens("c", to_user_uid="u3"), tokens("D", to_user_uid="u4"), tokens("e", to_user_uid="u5", nonce="n5")]
            )
            retried = await ledger.renew_key(await led_to(ledger, State.REJECTED, tokens("f", to_user_uid="u6")))
        rows = [
            tokens("c", to_user_uid="u9"),
            tokens("d", to_user_uid="u4"),
            tokens("g", to_user_uid="u7", nonce="n5"),
            tokens("h", to_user_uid="u8", nonce="n2"),
            tokens("i", to_user_uid="u1", line=6),
            tokens("f", to_user_uid="u6"),
            tokens("j", to_user_uid="u10"),
        ]

        def look(reader: LedgerReader) -> None:
            with Preflight(reader, "original", "diwali-2026") as preflight:
                problems = preflight(rows)
                kinds = [None if problem is None else problem.kind for problem in problems]
                assert kinds == ["changed", "respelled", "key_of_another_row", None, None, None, None]
                assert [(each.campaign, each.rows) for each in preflight.keys_elsewhere()] == [("old", 1)]
                assert [(each.campaign.name, each.rows, each.line) for each in preflight.repeats()] == [("old", 1, 6)]
                assert (preflight.rows, preflight.known, preflight.settled, retried.retries) == (7, 1, 0, 1)
                assert preflight.new["21"][0] == 2

        await read(look)


class RecordsContract:
    """What audits and people find and decide is kept."""

    async def test_an_audit_is_recorded_and_read(self, ledger: CampaignLedger, read: Read) -> None:
        done = await led_to(ledger, State.DONE, tokens("a"))
        unsure = await led_to(ledger, State.UNKNOWN, tokens("b", to_user_uid="33"))
        aim = scope(ledger, apply=True, allow_unknown=True)
        begun = await ledger.transact(partial(records.begin, aim, AT, 0.0))
        groups = await ledger.transact(partial(records.page, aim, ""))
        assert [[row.entry for row in rows] for _, rows in groups] == [[done], [unsure]]
        known = {row.entry.id: row for _, rows in groups for row in rows}
        checked = ComparisonResult(rows=2, asked_at=AT)
        checked.findings += [
            Finding(kind="held", row=known["b"], recipient="33", ledger="unknown", vendor="done", uid="9", to=State.DONE),
            *(Finding(kind="unknown_to_ledger", recipient="32", ledger="", vendor="1") for _ in range(12)),
            Finding(kind="balance_lower", recipient="32", ledger="+2", vendor="+1"),
        ]
        await ledger.transact(partial(records.record, aim, begun.number, [checked], 3, AT + 1, groups[-1][0]))
        again = await ledger.transact(partial(records.begin, aim, AT + 2, 0.0))
        assert (again.number, again.done, again.after) == (begun.number, 2, groups[-1][0])
        alone = await ledger.transact(partial(records.begin, scope(ledger, only=ledger.number), AT + 2, 0.0))
        assert alone.number != begun.number
        await ledger.transact(partial(records.end, begun.number, AT + 3))
        said = await read(lambda reader: reader.audit(begun.number))
        assert (said.rows, said.requests, said.unchecked, said.ended_at) == (2, 3, 0, AT + 3)
        assert (said.counts, said.applied) == ({"held": 1, "unknown_allowed": 1, "balance_lower": 1}, {"held": 1})
        assert (said.unknown_allowed, {type(number) for number in said.applied.values()}) == (12, {int})
        held, allowed = await read(lambda reader: list(reader.differences(begun.number, ["held", "unknown_allowed"])))
        assert (held.row_id, held.campaign, held.key, held.applied) == ("b", "diwali-2026", unsure.key, True)
        assert (allowed.row_id, allowed.vendor, allowed.applied) == (None, "12", False)
        found = await read(lambda reader: list(reader.differences(reader.audit(begun.number))))
        assert sorted(each.kind for each in found) == ["balance_lower", "held", "unknown_allowed"]
        assert await ledger.transact(partial(records.is_conclusive, begun.number))
        assert await ledger.transact(partial(records.audited_targets, "original", 0.0)) == {TARGET}
        assert set(await ledger.transact(partial(records.owners, aim, [done.key, "none"]))) == {done.key}
        moved = await ledger.find("b")
        assert moved is not None
        assert (moved.state, moved.uid, moved.settled_by) == (State.DONE, "9", "audit")

    async def test_the_last_audit_of_a_campaign_is_read(self, open_ledger: OpenLedger, read: Read) -> None:
        async with open_ledger(target=TARGET) as ledger:
            assert await read(lambda reader: reader.last_audit(reader.campaign())) is None
            begun = await ledger.transact(partial(records.begin, scope(ledger, campaigns=frozenset()), AT, 0.0))
            assert begun.rows == 0
            await ledger.transact(partial(records.end, begun.number, AT))
            last = await read(lambda reader: reader.last_audit(reader.campaign()))
        assert last is not None
        assert (last.number, last.unknown_allowed, last.applied) == (begun.number, 0, {})

    async def test_a_retry_is_undone(self, ledger: CampaignLedger) -> None:
        old = await led_to(ledger, State.REJECTED, tokens())
        renewed = await ledger.renew_key(old)
        (back,) = await ledger.transact(partial(decisions.undo, rows=[renewed], note="no", at=AT))
        assert back == old

        def told(number: int | None) -> Any:
            return lambda database: [
                (each.kind, each.was, each.undone_by is None) for each in decisions.decisions(database, number)
            ]

        both = [("retry", "rejected", False), ("undo", "planned", True)]
        assert await ledger.transact(told(None)) == both
        assert await ledger.transact(told(ledger.number)) == both
        assert await ledger.transact(told(ledger.number + 1)) == []

    async def test_rows_that_complete_lists_do_not_show_are_recorded(
        self, ledger: CampaignLedger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unknown = await led_to(ledger, State.UNKNOWN, tokens("a"))
        done = await led_to(ledger, State.DONE, tokens("b"))
        for at in (AT, AT + 60):
            monkeypatch.setattr("payouts.audit.absence.uptime", lambda at=at: at - AT)
            await ledger.transact(partial(record_absent, numbers=[unknown.number, done.number], at=at))
        absent = [(each.absent_since, each.absent_at) for each in await ledger.entries([State.UNKNOWN, State.DONE])]
        assert absent == [(AT, AT + 60), (None, None)]

    async def test_the_newest_balance_is_kept(self, ledger: CampaignLedger) -> None:
        class Balances:
            def __init__(self, coins: int) -> None:
                self.coins = coins

            async def balance_of(self, recipient: str) -> int:
                return self.coins

        for balance in (5, 7):
            await snapshot(ledger, Balances(balance), ["u"], clock=lambda: 1.0)
        kept = await ledger.transact(lambda database: database.execute("SELECT recipient, coins, at FROM balances").fetchall())
        assert [tuple(each) for each in kept] == [("u", 7, 1.0)]
