"""The sandboxed EnKash answers as its documents show it, and its balances are real."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from tests.sandboxes.enkash_partner import ALLOCATE, EVENT, EVENTS, GRANT, Answer, PartnerOf, failure, logged_in
from vendor_sandboxes import EnkashSandbox
from vendor_sandboxes.enkash import BodyCipher

SUCCESS = {"payload": "Successfully allocated enkash Coins", "response_code": 0, "response_message": "Success"}
NO_FUNDS = "Insufficient balance in card account"


# events, allocations, balances


async def test_event_is_created_read_and_changed(partner_of: PartnerOf) -> None:
    async with EnkashSandbox() as sandbox:
        partner = await logged_in(partner_of, sandbox)
        status, created = await partner.create()
        config = created["payload"]["coinConfigId"]
        assert config.startswith("WCC")
        assert config[3:].isdecimal()
        whole = {"payload": {"coinConfigId": config, **EVENT}, "response_code": 0, "response_message": "Success"}
        assert (status, created) == (200, whole)
        path = f"/api/v0/enkash-coins/{config}"
        assert await partner.call("GET", path) == (200, whole)
        _, changed = await partner.call("PATCH", path, {"amount": 10, "configuration": "CUSTOM"})
        assert changed["payload"] == {
            "coinConfigId": config,
            "configuration": "CUSTOM",
            "event": "MEAL_CARD_PAYMENT",
            "amount": 10,
        }
        _, read = await partner.call("GET", path)
        assert read["payload"] == {"coinConfigId": config, **EVENT, "configuration": "CUSTOM", "amount": 10}


async def test_allocation_credits_what_the_event_is_worth_at_that_moment(partner_of: PartnerOf) -> None:
    async with EnkashSandbox() as sandbox:
        partner = await logged_in(partner_of, sandbox)
        config = (await partner.create())[1]["payload"]["coinConfigId"]
        assert await partner.allocate("r1") == (200, SUCCESS)
        await partner.call("PATCH", f"/api/v0/enkash-coins/{config}", {"amount": 10})
        await partner.allocate("r2")
        await partner.allocate("r3", userId="another")
        assert [await partner.balance(user) for user in ("EKQZVMQK", "another", "stranger")] == [16, 10, 0]
        books = sandbox.books()
        assert [(entry["requestId"], entry["amount"]) for entry in books["allocations"]] == [("r1", 6), ("r2", 10), ("r3", 10)]
        assert (books["balances"], books["created"]) == ({"EKQZVMQK": 16, "another": 10}, {"r1": 1, "r2": 1, "r3": 1})


async def test_renamed_event_is_found_under_its_new_name_alone(partner_of: PartnerOf) -> None:
    async with EnkashSandbox() as sandbox:
        partner = await logged_in(partner_of, sandbox)
        older = (await partner.create(amount=1))[1]["payload"]["coinConfigId"]
        await partner.create(amount=2)
        await partner.allocate("r1")
        await partner.call("PATCH", f"/api/v0/enkash-coins/{older}", {"event": "REFERRAL_EVENT", "companyId": "CEK0TCW2W8"})
        await partner.allocate("r2")
        await partner.allocate("r3", event="REFERRAL_EVENT", companyId="CEK0TCW2W8")
        await partner.call("PATCH", f"/api/v0/enkash-coins/{older}", {"event": "INVOICE_PAYMENT"})
        status, reply = await partner.allocate("r4", event="REFERRAL_EVENT", companyId="CEK0TCW2W8")
        assert (status, reply["response_code"]) == (404, 1)
        assert await partner.balance() == 2 + 2 + 1


@pytest.mark.parametrize(
    ("mode", "second", "coins"),
    [
        ("replay", (200, SUCCESS), 6),
        ("reject", (200, failure("Duplicate requestId: r1")), 6),
        ("conflict", (409, failure("Duplicate request id")), 6),
        ("credit", (200, SUCCESS), 12),
    ],
)
async def test_known_request_id_does_as_switched(partner_of: PartnerOf, mode: str, second: Answer, coins: int) -> None:
    async with EnkashSandbox(duplicate_request=mode) as sandbox:
        partner = await logged_in(partner_of, sandbox)
        await partner.create()
        assert await partner.allocate("r1") == (200, SUCCESS)
        assert await partner.allocate("r1") == second
        assert await partner.balance() == coins
        assert sandbox.books()["created"]["r1"] == coins // 6


async def test_failed_allocation_credits_nothing_and_keeps_its_request_id_free(partner_of: PartnerOf) -> None:
    async with EnkashSandbox(fail_rate=1) as sandbox:
        partner = await logged_in(partner_of, sandbox)
        await partner.create()
        assert await partner.allocate() == (200, failure(NO_FUNDS))
        sandbox.options.fail_rate = 0
        assert await partner.allocate() == (200, SUCCESS)
        assert await partner.balance() == 6


async def test_funds_run_out_and_can_be_filled_up(partner_of: PartnerOf) -> None:
    async with EnkashSandbox(funds=13) as sandbox:
        partner = await logged_in(partner_of, sandbox)
        await partner.create()
        replies = [(await partner.allocate(f"r{number}"))[1] for number in range(3)]
        assert replies == [SUCCESS, SUCCESS, failure(NO_FUNDS)]
        assert sandbox.funds == sandbox.books()["funds"] == 1
        sandbox.funds = 6
        assert (await partner.allocate("r2"))[1] == SUCCESS


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", EVENTS, {**EVENT, "amount": None}, 400, "amount is required"),
        ("POST", EVENTS, {**EVENT, "amount": "6"}, 422, "amount must be an integer, 0 or more"),
        ("POST", EVENTS, {**EVENT, "amount": True}, 422, "amount must be an integer, 0 or more"),
        ("POST", EVENTS, {**EVENT, "amount": -1}, 422, "amount must be an integer, 0 or more"),
        ("POST", EVENTS, {**EVENT, "configuration": "OTHER"}, 422, "configuration must be one of DEFAULT, CUSTOM"),
        ("POST", EVENTS, {**EVENT, "event": ""}, 400, "event is required"),
        ("POST", EVENTS, {**EVENT, "companyId": 7}, 422, "companyId must be a string"),
        ("POST", EVENTS, {**EVENT, "amount": int("9" * 4300)}, 422, "amount must be at most 9223372036854775807"),
        ("POST", EVENTS, b'{"amount": 1e99999999999999999999}', 400, "configuration is required"),
        ("POST", EVENTS, b"[" * 100_000, 400, "Invalid request body"),
        ("POST", EVENTS, b'{"more": NaN}', 400, "Invalid request body"),
        ("POST", EVENTS, b"{", 400, "Invalid request body"),
        ("POST", EVENTS, [], 400, "Invalid request body"),
        ("POST", ALLOCATE, {**GRANT, "requestId": None}, 400, "requestId is required"),
        (
            "POST",
            ALLOCATE,
            GRANT,
            404,
            "Coin configuration not found for companyId: CEKEKCARDS and event: MEAL_CARD_PAYMENT",
        ),
        ("GET", "/api/v0/enkash-coins/WCC12345", None, 404, "Coin configuration not found for coinConfigId: WCC12345"),
        ("PATCH", "/api/v0/enkash-coins/WCC12345", {"amount": 1}, 404, "Coin configuration not found for coinConfigId: WCC12345"),
        ("GET", "/api/v0/coins/balance", None, 400, "userId is required"),
        ("POST", "/api/v0/coins/balance?userId=x", {}, 405, "Request method 'POST' not supported"),
    ],
)
async def test_bad_requests_are_refused_with_code_1(
    partner_of: PartnerOf, method: str, path: str, body: Any, status: int, said: str
) -> None:
    async with EnkashSandbox() as sandbox:
        partner = await logged_in(partner_of, sandbox)
        assert await partner.call(method, path, body) == (status, failure(said))


async def test_body_of_another_media_type_and_wrong_method_are_refused(partner_of: PartnerOf) -> None:
    async with EnkashSandbox() as sandbox:
        partner = await logged_in(partner_of, sandbox)
        config = (await partner.create())[1]["payload"]["coinConfigId"]
        assert (await partner.call("POST", EVENTS, b"{}", **{"Content-Type": "text/plain"}))[0] == 415
        assert (await partner.call("DELETE", f"/api/v0/enkash-coins/{config}"))[0] == 405


@pytest.mark.parametrize("path", ["/", "/api/v0/enkash-coins", "/api/v0/coins", "/v1/reward/allocate"])
async def test_unknown_route_is_a_page(partner_of: PartnerOf, path: str) -> None:
    async with EnkashSandbox() as sandbox:
        status, reply = await (await logged_in(partner_of, sandbox)).call("GET", path)
        assert (status, "<h1>Not Found</h1>" in reply) == (404, True)


# variants and faults


async def test_envelope_may_be_spelled_otherwise(partner_of: PartnerOf) -> None:
    async with EnkashSandbox(envelope="code", code_as="string") as sandbox:
        partner = await logged_in(partner_of, sandbox)
        assert (await partner.create())[1]["code"] == "0"
        assert (await partner.allocate())[1] == {"payload": SUCCESS["payload"], "code": "0", "message": "Success"}
        assert (await partner.allocate("r2", event="none"))[1]["code"] == "1"


async def test_coins_alone_may_be_hit(partner_of: PartnerOf) -> None:
    async with EnkashSandbox(p503=1, only_path="/api/") as sandbox:
        partner = await logged_in(partner_of, sandbox)
        status, page = await partner.create()
        assert (status, "503" in page) == (503, True)
        sandbox.options.p503, sandbox.options.p429 = 0, 1
        assert (await partner.create())[0] == 429
        assert sandbox.books()["faults"] == {"p503": 1, "p429": 1}


async def test_lost_reply_has_credited(partner_of: PartnerOf) -> None:
    async with EnkashSandbox() as sandbox:
        partner = await logged_in(partner_of, sandbox)
        await partner.create()
        sandbox.script("drop_after_commit", "p503_after_commit", "none")
        with pytest.raises(aiohttp.ClientConnectionError):
            await partner.allocate("r1")
        assert (await partner.allocate("r2"))[0] == 503
        assert await partner.balance() == 12


@pytest.mark.slow
async def test_equal_seeds_give_equal_books(partner_of: PartnerOf) -> None:
    stories = []
    for _ in range(2):
        async with EnkashSandbox(seed=9, fail_rate=0.3, p503=0.2, only_path=ALLOCATE, clock=lambda: 1.7e9) as sandbox:
            partner = await logged_in(partner_of, sandbox)
            await partner.create()
            statuses = [(await partner.allocate(f"r{number}"))[0] for number in range(50)]
            stories.append((partner.headers, statuses, sandbox.books()))
    assert stories[0] == stories[1]
    assert set(stories[0][1]) == {200, 503}


async def test_log_does_not_show_the_password(partner_of: PartnerOf) -> None:
    async with EnkashSandbox() as sandbox:
        await logged_in(partner_of, sandbox)
        assert sandbox.password.encode() in sandbox.requests[0].body
        assert sandbox.password not in repr(sandbox.requests)


async def test_encrypted_bodies_go_both_ways_but_not_for_tokens(partner_of: PartnerOf) -> None:
    async with EnkashSandbox(encrypted=True) as sandbox:
        partner = await logged_in(partner_of, sandbox)
        cipher = BodyCipher(sandbox.client_secret)
        status, reply = await partner.call("POST", EVENTS, cipher.encrypt(json.dumps(EVENT).encode()))
        assert (status, set(reply)) == (200, {"request"})
        assert json.loads(cipher.decrypt(json.dumps(reply).encode()))["payload"]["amount"] == 6
        status, reply = await partner.create()
        assert status == 422
        assert json.loads(cipher.decrypt(json.dumps(reply).encode())) == failure("Invalid request body")
        sandbox.options.encrypted = False
        assert (await partner.create())[0] == 200
