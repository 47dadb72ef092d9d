"""When an answer is a success, and what is made of every other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enkash_async.envelope import read_balance, read_event, read_refusal, read_success, read_token
from enkash_async.models import CoinConfiguration, CoinEvent
from rewards_core.errors import RequestRejected, UnexpectedResponse
from rewards_core.http.messages import Answer
from tests.enkash_async.enkash_kit import ALLOCATED, BALANCE, CREATED, NO_FUNDS, UPDATED


def answer(body: Any, status: int = 200) -> Answer:
    return Answer(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    "variant",
    [
        {"response_code": 0, "response_message": "Success", "payload": 5},
        {"response_code": "0", "response_message": "Success", "payload": 5},
        {"code": 0, "message": "Success", "payload": 5},
        {"code": "0", "message": "Success", "payload": 5},
        {"response_code": "0", "response_message": "Success", "paylod": 5},
        {"response_code": 0, "code": "0", "message": "Success", "payload": 5},
    ],
)
def test_every_documented_way_to_write_a_success_is_read(variant: dict[str, Any]) -> None:
    envelope = read_success(answer(variant))

    assert (envelope.payload, envelope.message) == (5, "Success")
    assert envelope.raw == variant


@pytest.mark.parametrize("code", [1, "1", -1, 403, "422", 2**40])
def test_any_other_code_is_a_refusal_in_the_vendors_words(code: object) -> None:
    with pytest.raises(RequestRejected, match="Insufficient balance in card account") as caught:
        read_success(answer({**NO_FUNDS, "response_code": code}))

    assert caught.value.code == str(code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Service unavailable</html>",
        b"[]",
        b"null",
        b"0",
        {},
        {"payload": 5},
        {"response_code": None, "payload": 5},
        {"response_code": "", "payload": 5},
        {"response_code": "zero", "payload": 5},
        {"response_code": " 0", "payload": 5},
        {"response_code": "\u0660", "payload": 5},
        {"response_code": "00", "payload": 5},
        {"response_code": "-0", "payload": 5},
        {"response_code": "+0", "payload": 5},
        {"response_code": False, "payload": 5},
        {"response_code": 0.0, "payload": 5},
        {"response_code": [], "payload": 5},
        {"response_code": 0, "code": 1, "payload": 5},
        {"code": 0, "response_code": None, "payload": 5},
    ],
)
def test_an_answer_without_a_code_that_can_be_read_is_neither_success_nor_refusal(body: Any) -> None:
    with pytest.raises(UnexpectedResponse):
        read_success(answer(body))


@pytest.mark.parametrize("status", [201, 202, 204, 206])
def test_another_2xx_is_no_success_even_with_code_0(status: int) -> None:
    with pytest.raises(UnexpectedResponse, match=f"response code 0 came with HTTP {status}"):
        read_success(answer(BALANCE, status))


def test_the_payload_of_a_refusal_is_never_decoded() -> None:
    with pytest.raises(RequestRejected):
        read_event(read_success(answer(NO_FUNDS)))


def test_a_refusal_without_words_says_so() -> None:
    with pytest.raises(RequestRejected, match="HTTP 200 with response code 1: no reason given"):
        read_success(answer({"response_code": 1, "response_message": None}))


def test_secrets_are_taken_out_of_the_vendors_words() -> None:
    with pytest.raises(RequestRejected, match=r"no such token \[hidden\]"):
        read_success(answer({"response_code": 1, "response_message": "no such token tok-1"}), lambda: ("tok-1",))


def test_an_event_is_read_with_all_its_fields() -> None:
    payload = {**CREATED["payload"], "isActive": True}  # type: ignore[dict-item]

    event = read_event(read_success(answer({**CREATED, "payload": payload})))

    assert event == CoinEvent(
        coin_config_id="WCC817428",
        configuration=CoinConfiguration.DEFAULT,
        event="MEAL_CARD_PAYMENT",
        amount=6,
        company_id="CEKEKCARDS",
    )
    assert event.raw["isActive"] is True


def test_an_event_without_company_is_read() -> None:
    assert read_event(read_success(answer(UPDATED))).company_id is None


def test_a_new_configuration_is_kept() -> None:
    payload = {**CREATED["payload"], "configuration": "TIERED"}  # type: ignore[dict-item]

    assert read_event(read_success(answer({**CREATED, "payload": payload}))).configuration.value == "tiered"


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (None, "payload"),
        ("Success", "payload"),
        ([], "payload"),
        ({}, "payload.coinConfigId"),
        ({"coinConfigId": 5}, "payload.coinConfigId"),
        ({**CREATED["payload"], "amount": "6"}, "payload.amount"),  # type: ignore[dict-item]
        ({**CREATED["payload"], "amount": 6.5}, "payload.amount"),  # type: ignore[dict-item]
        ({**CREATED["payload"], "amount": True}, "payload.amount"),  # type: ignore[dict-item]
        ({**CREATED["payload"], "configuration": {"CUSTOM": "x"}}, "payload.configuration"),  # type: ignore[dict-item]
        ({**CREATED["payload"], "event": None}, "payload.event"),  # type: ignore[dict-item]
        ({**CREATED["payload"], "companyId": 7}, "payload.companyId"),  # type: ignore[dict-item]
    ],
)
def test_an_event_of_another_shape_names_the_place(payload: Any, path: str) -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        read_event(read_success(answer({**CREATED, "payload": payload})))

    assert caught.value.path == path
    assert path in str(caught.value)


def test_a_balance_is_a_bare_whole_number() -> None:
    assert read_balance(read_success(answer(BALANCE))) == 16


@pytest.mark.parametrize("payload", [None, "16", 16.0, True, {"balance": 16}])
def test_a_balance_of_another_type_is_refused(payload: Any) -> None:
    with pytest.raises(UnexpectedResponse, match="payload: must be a whole number"):
        read_balance(read_success(answer({**BALANCE, "payload": payload})))


@pytest.mark.parametrize(
    ("status", "body", "message", "code", "invalid"),
    [
        (422, {"response_code": 1, "response_message": "Bin Type is not mapped"}, "Bin Type is not mapped", "1", True),
        (400, {"code": "1", "message": "amount is missing"}, "amount is missing", "1", True),
        (404, {"response_code": 1, "response_message": "Card account not found"}, "Card account not found", "1", False),
        (401, {"error": "invalid_token", "error_description": "Access token expired"}, "Access token expired", None, False),
        (401, {"error": "unauthorized"}, "unauthorized", None, False),
        (400, {"response_code": {}, "response_message": 5}, "", None, True),
        (422, b"<html>", "", None, True),
        (403, b"[1]", "", None, False),
        (404, ALLOCATED, "Success", "0", False),
    ],
)
def test_a_4xx_says_what_can_be_read_of_it(status: int, body: Any, message: str, code: str | None, invalid: bool) -> None:
    refusal = read_refusal(answer(body, status))

    assert (refusal.message, refusal.code, refusal.invalid) == (message, code, invalid)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60.5", 60.5), ('"299"', 299.0), ("-5", 0.0), ("0", 0.0), ("86399", 300.0), ("1e99", 300.0), ("9" * 400, 300.0)],
)
def test_a_token_lives_as_long_as_enkash_says_but_no_longer_than_its_documents(text: str, seconds: float) -> None:
    body = f'{{"access_token": "tok-1", "expires_in": {text}}}'.encode()

    assert read_token(answer(body), tuple).expires_in == seconds


@pytest.mark.parametrize("text", ["null", "true", '"soon"', '"\u0665"', "[]", '""'])
def test_a_life_that_is_no_number_is_not_believed(text: str) -> None:
    body = f'{{"access_token": "tok-1", "expires_in": {text}}}'.encode()

    assert read_token(answer(body), tuple).expires_in is None
