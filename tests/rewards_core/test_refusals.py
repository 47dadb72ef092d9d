"""Whether a refusal says that its key is known already, on the words of Django REST Framework and its relatives."""

from __future__ import annotations

from typing import Any

import pytest

from rewards_core.errors import FieldError, RequestRejected
from rewards_core.http.refusals import affirms_existence, names_other_fields

NONCE = {"nonce", "allocat"}
REQUEST_ID = {"request id", "coins"}


def refusal(message: str = "", *, field: str = "", code: str | None = None, status: int = 400) -> RequestRejected:
    return RequestRejected(message, status=status, details=[FieldError(field=field, message=message, code=code)])


KNOWN = [
    "There is already an allocation for this nonce.",
    "nonce taken",
    "NONCE_TAKEN",
    "Nonce has been spent",
    "Nonce has been seen",
    "Nonce was processed on 2026-11-21",
    "Tokens were already redeemed under this nonce",
    "Tokens have already been sent to this user.",
    "Reward has already been processed for this user.",
    "Nonce repeated",
    "Repeated request",
    "Request is processing",
    "Allocation was created earlier",
    "Allocation has been created.",
    "An allocation with that nonce was found",
    "Only one allocation per nonce is allowed",
    "nonce alreadyexists",
    "Allocation already exists.",
    "allocation with this nonce already exists.",
    "Reward allocation with this Nonce already exists.",
    "Allocation with this nonce exists.",
    "Nonce 'abc-1' exists",
    "Unit allocation already exists.",
    "Duplicate request.",
    "Duplicate nonce",
    "Duplicate entry 'abc' for key 'nonce'",
    'duplicate key value violates unique constraint "allocation_user_nonce_key"',
    "Key (nonce)=(abc) already exists.",
    "UNIQUE constraint failed: rewards_allocation.nonce",
    "Duplicate request for this user.",
    "Duplicate transaction of wallet 0x12.",
    "Duplicates are not allowed.",
    "No duplicate requests allowed.",
    "You can not duplicate an allocation.",
    "You cannot duplicate allocations.",
    "The nonce must not be a duplicate.",
    "nonce must be unique",
    "The nonce has to be unique.",
    "The fields user, nonce must make a unique set.",
    "The nonce is not unique.",
    "This nonce isn't unique.",
    "Non-unique nonce",
    "nonce already used",
    "Nonce has already been used.",
    "Nonce was previously used.",
    "The nonce has been used.",
    "The nonce was used before.",
    "We have seen this nonce before.",
    "Nonce can only be used once.",
    "A nonce cannot be used twice.",
    "Nonce reuse is not allowed",
    "A nonce must not be re-used.",
    "This nonce is taken.",
    "Nonce is already in use.",
    "Nonce consumed already: it has been consumed.",
    "The nonce belongs to another allocation.",
    "The nonce must not exist.",
    "The nonce must never have been used.",
    "Use a different nonce.",
    "Nonce too low",
    "will not process duplicate request",
    "cannot be accepted because the allocation already exists",
    "Not allowed: allocation already exists",
    "Request not accepted, nonce already used",
    "Not created as the allocation exists.",
    "Reward is closed. Allocation already exists.",
    "The nonce does not match or has already been used.",
    "Allocation is already being processed",
    "Allocation is pending.",
    "Another request with this nonce is in progress.",
    "A concurrent request with this nonce",
    "This request has already been processed for this user.",
    "Transaction already processed.",
    "The request for user 5 was already accepted",
    "User has already been credited.",
    "Tokens already allocated to this user.",
    "Replay detected",
    "Nonce conflict",
    "Identical request received.",
    "Found an existing allocation.",
    "Double allocation.",
    "Keys for idempotent requests can only be used with the same parameters they were first used with.",
]
NOT_KNOWN = [
    "Allocation was not found",
    "No allocation was found under this nonce",
    "User has been created recently; wait a day",
    "",
    "User does not exist.",
    "object does not exist. to_user_uid",
    'Invalid pk "5" - object does not exist.',
    "Reward doesn't exist.",
    "Reward doesn\u2019t exist.",
    "The nonces do not exist.",
    "Not found.",
    "Your request could not be processed.",
    "Your request has not been processed.",
    "The request could not have been processed.",
    "nonce: max 32 characters",
    "Reward is already closed.",
    "User already exists.",
    "Bad request - user already exists",
    "Request failed: user already exists",
    "Email already taken.",
    "Duplicate user.",
    "This reward has already been claimed.",
    "The wallet address is already in use.",
    "Nonce does not exist",
    "Nonce does not already exist",
    "No allocation with this nonce exists",
    'No allocation with nonce "a-1" exists',
    "No existing allocation.",
    "no such allocation exists",
    "Neither user nor nonce exists",
    "nonce has not been used",
    "The nonce has never been used.",
    "The nonce hasn't been used yet.",
    "The allocation isn't already being processed",
    "Check if the nonce already exists.",
    "Unknown nonce",
    "Insufficient funds.",
    "You have already used your limit.",
    "The quota has been used.",
    "Allocation amount exceeds the balance.",
    "Allocation limit reached for this reward.",
    "Reward contract is not deployed yet.",
    "A deployment of the reward is in progress.",
    "Balance too low.",
    "JSON parse error - Expecting value: line 1 column 1 (char 0)",
    'Unsupported media type "text/plain" in request.',
    'Method "PUT" not allowed.',
    "Authentication credentials were not provided.",
]


@pytest.mark.parametrize("message", KNOWN)
def test_words_that_affirm_the_key_or_what_it_made_say_it_is_known(message: str) -> None:
    for field in ("", "detail", "non_field_errors", "nonFieldErrors", "nonce"):
        assert affirms_existence(refusal(message, field=field), about=NONCE), field


@pytest.mark.parametrize("message", NOT_KNOWN)
def test_words_that_deny_it_or_speak_of_something_else_do_not(message: str) -> None:
    for field in ("", "detail", "non_field_errors"):
        assert not affirms_existence(refusal(message, field=field), about=NONCE), field


@pytest.mark.parametrize(
    "message",
    [
        "This field must be unique.",
        "This value already exists.",
        "Has already been used.",
        "Already taken",
        "User already exists.",
    ],
)
def test_on_the_field_of_the_key_the_words_need_not_name_it(message: str) -> None:
    assert affirms_existence(refusal(message, field="nonce"), about=NONCE)
    assert affirms_existence(refusal(message, field="requestId"), about=REQUEST_ID)
    assert not affirms_existence(refusal(message, field="to_user_uid"), about=NONCE)


@pytest.mark.parametrize(
    "message",
    [
        "Ensure this field has no more than 50 characters.",
        "This field may not be blank.",
        "This field may not be null.",
        "This field is required.",
        "Not a valid string.",
        "Null characters are not allowed.",
        "Invalid nonce.",
        "max 32 characters",
        "object does not exist.",
    ],
)
def test_what_is_wrong_with_the_form_of_the_key_does_not_make_it_known(message: str) -> None:
    assert not affirms_existence(refusal(message, field="nonce"), about=NONCE)


@pytest.mark.parametrize(
    "code",
    [
        *("unique", "not_unique", "duplicate", "already_exists", "NONCE_ALREADY_USED", "DuplicateRequest", "nonce-already-used"),
        *("allocation.already.exists", "idempotency_key_in_use", "conflict"),
    ],
)
def test_a_code_alone_can_say_that_the_key_is_known(code: str) -> None:
    assert affirms_existence(refusal("Bad request.", code=code), about=NONCE)
    assert affirms_existence(refusal("", field="nonce", code=code), about=NONCE)


@pytest.mark.parametrize(
    "code", [None, "", "bad_request", "does_not_exist", "user_already_exists", "invalid", "max_length", "required", "not_found"]
)
def test_other_codes_do_not(code: str | None) -> None:
    assert not affirms_existence(refusal("Bad request.", code=code), about=NONCE)


def test_conflict_status_says_that_the_key_is_known_whatever_the_words() -> None:
    assert affirms_existence(refusal("User does not exist.", status=409), about=NONCE)
    for status in (409, 423, 425):
        assert affirms_existence(RequestRejected("", status=status), about=NONCE)
    assert not affirms_existence(RequestRejected("Allocation already exists.", status=400), about=NONCE)


def test_one_detail_among_several_is_enough() -> None:
    details = [FieldError(field="amount", message="too high"), FieldError(field="nonce", message="already used")]
    assert affirms_existence(RequestRejected("", status=400, details=details), about=NONCE)


@pytest.mark.parametrize(
    ("fields", "others"),
    [
        (["to_user_uid"], True),
        (["to_user_uid", "amount"], True),
        (["to_user_uid", "nonce"], False),
        (["allocation_id"], False),
        (["amount", ""], False),
        (["non_field_errors"], False),
        (["nonFieldErrors"], False),
        (["__all__"], False),
        (["detail"], False),
        (["code"], False),
        ([], False),
    ],
)
def test_only_named_fields_other_than_the_keys_clear_the_key(fields: list[str], others: bool) -> None:
    details: list[Any] = [FieldError(field=field, message="wrong") for field in fields]
    assert names_other_fields(RequestRejected("", details=details), about=NONCE) is others
