"""What one answer means, cell by cell, for a read, a keyed write and a bare write."""

from __future__ import annotations

import copy
import pickle

import pytest

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    ConfigurationError,
    ConnectFailed,
    FieldError,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    Unauthorized,
    ValidationFailed,
    VendorError,
)
from rewards_core.http.messages import Effect, Headers
from tests.rewards_core.answer_kit import (
    ALREADY_USED,
    BARE,
    DETAILS,
    EVERY,
    KEYED,
    LOST,
    MISTAKE,
    OK,
    READ,
    REFUSED_TO_CONNECT,
    WRITES,
    NoOther,
    Script,
    about_the_nonce,
    answer,
    outcome,
)
from tests.rewards_core.call_kit import Credentials
from tests.stepped_time import SteppedTime

# --- a readable 2xx ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _time(stepped_time: SteppedTime) -> None:
    Script.time = stepped_time


@pytest.mark.parametrize("effect", EVERY)
@pytest.mark.parametrize("status", [200, 201, 299])
async def test_readable_2xx_is_the_result(effect: Effect, status: int) -> None:
    script = Script([answer(status)])
    assert await outcome(script, effect) == {"ok": True}
    assert len(script.sent) == 1


# --- never left -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
async def test_never_left_is_repeated(effect: Effect) -> None:
    script = Script([REFUSED_TO_CONNECT, REFUSED_TO_CONNECT, OK])
    assert await outcome(script, effect) == {"ok": True}
    assert len(script.sent) == 3


@pytest.mark.parametrize("effect", EVERY)
async def test_never_left_to_the_end_is_connect_failed(effect: Effect) -> None:
    error = await outcome(Script([REFUSED_TO_CONNECT]), effect)
    assert type(error) is ConnectFailed
    assert (error.attempts, error.status, error.idempotency_key) == (5, None, "key-1")


@pytest.mark.parametrize("effect", EVERY)
async def test_407_is_the_proxys_and_never_left(effect: Effect) -> None:
    script = Script([answer(407), OK])
    assert await outcome(script, effect) == {"ok": True}
    script = Script([answer(407)])
    error = await outcome(script, effect)
    assert type(error) is ConnectFailed
    assert (error.attempts, error.status, len(script.sent)) == (5, 407, 5)


# --- a local mistake --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
async def test_a_local_mistake_is_a_configuration_error_at_once(effect: Effect) -> None:
    script = Script([MISTAKE, OK])
    error = await outcome(script, effect)
    assert type(error) is ConfigurationError
    assert len(script.sent) == 1
    assert not script.time.slept


# --- 429 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
async def test_429_waits_as_asked_and_repeats(effect: Effect) -> None:
    script = Script([answer(429, Retry_After="7"), OK])
    assert await outcome(script, effect) == {"ok": True}
    assert sum(script.time.slept) >= 7


@pytest.mark.parametrize("effect", EVERY)
async def test_429_waits_until_the_date_it_names_by_the_vendors_clock(effect: Effect) -> None:
    names = answer(429, Date="Fri, 02 Jan 2026 03:04:05 GMT", Retry_After="Fri, 02 Jan 2026 03:04:12 GMT")
    script = Script([names, OK])
    assert await outcome(script, effect) == {"ok": True}
    assert script.time.slept == [7.0]


@pytest.mark.parametrize("effect", EVERY)
async def test_429_to_the_end_is_rate_limited(effect: Effect) -> None:
    error = await outcome(Script([answer(429, Retry_After="2")]), effect)
    assert type(error) is RateLimited
    assert (error.status, error.retry_after) == (429, 2.0)


@pytest.mark.parametrize("effect", EVERY)
async def test_429_asking_for_more_than_the_time_left_ends_now(effect: Effect) -> None:
    script = Script([answer(429, Retry_After="31")])
    error = await outcome(script, effect)
    assert type(error) is RateLimited
    assert error.retry_after == 31.0
    assert not script.time.slept


async def test_429_asking_for_more_than_the_policy_allows_ends_now() -> None:
    script = Script([answer(429, Retry_After="61")])
    assert type(await outcome(script, READ, total=600)) is RateLimited
    assert len(script.sent) == 1


async def test_429_pauses_the_other_calls_of_the_client() -> None:
    script = Script([answer(429, Retry_After="20"), OK])
    assert await outcome(script, READ) == {"ok": True}
    script = Script([answer(429, Retry_After="40")])
    await outcome(script, READ)
    script.steps = [OK]
    late = await outcome(script, READ, total=5)
    assert type(late) is RateLimited
    assert len(script.sent) == 1
    assert late.retry_after is not None
    assert 30 < late.retry_after <= 40


# --- 401 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
async def test_401_renews_and_repeats_once(effect: Effect) -> None:
    script = Script([answer(401), OK], authorizer=Credentials(renewable=True))
    assert await outcome(script, effect) == {"ok": True}
    assert script.sent[0] != script.sent[1]


async def test_attempts_count_the_one_whose_credentials_were_renewed() -> None:
    error = await outcome(
        Script([answer(401), LOST], authorizer=Credentials(renewable=True), retry=RetryPolicy(attempts=2)), BARE
    )
    assert (type(error), error.attempts) == (OutcomeUnknown, 2)


@pytest.mark.parametrize("effect", EVERY)
async def test_401_twice_is_unauthorized(effect: Effect) -> None:
    script = Script([answer(401)], authorizer=Credentials(renewable=True))
    assert type(await outcome(script, effect)) is Unauthorized
    assert len(script.sent) == 2


@pytest.mark.parametrize("effect", EVERY)
async def test_401_without_other_credentials_is_unauthorized_at_once(effect: Effect) -> None:
    script = Script([answer(401)])
    assert type(await outcome(script, effect)) is Unauthorized
    assert len(script.sent) == 1


@pytest.mark.parametrize("effect", EVERY)
@pytest.mark.parametrize(
    ("failure", "kind", "status"),
    [
        (ConnectFailed("the token endpoint is down"), ConnectFailed, 401),
        (Unauthorized("wrong password", status=400), Unauthorized, 400),
        (TimeoutError(), ConnectFailed, 401),
    ],
)
async def test_401_without_a_way_to_renew_ends_with_the_reason(
    effect: Effect, failure: Exception, kind: type[VendorError], status: int
) -> None:
    script = Script([answer(401)], authorizer=NoOther(failure))
    error = await outcome(script, effect)
    assert type(error) is kind
    assert (error.status, error.attempts, error.idempotency_key) == (status, 1, "key-1")
    assert str(failure) in str(error)
    assert len(script.sent) == 1


@pytest.mark.parametrize("failure", [TimeoutError(), ConnectFailed("no token"), Unauthorized("wrong password")])
async def test_401_without_a_way_to_renew_after_an_ambiguous_attempt_is_outcome_unknown(failure: Exception) -> None:
    error = await outcome(Script([LOST, answer(401)], authorizer=NoOther(failure)), KEYED)
    assert type(error) is OutcomeUnknown
    assert "HTTP 401" in str(error)


# --- other 4xx --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"message":"no","code":"bad_request"}', RequestRejected),
        (400, b'{"message":"no","invalid":true}', ValidationFailed),
        (403, b"{}", Forbidden),
        (404, b"<html>", NotFound),
        (409, b"{}", RequestRejected),
        (422, b'{"invalid":true}', ValidationFailed),
    ],
)
async def test_other_4xx_is_a_rejection(effect: Effect, status: int, body: bytes, kind: type[VendorError]) -> None:
    script = Script([answer(status, body)])
    error = await outcome(script, effect)
    assert type(error) is kind
    assert isinstance(error, VendorError)
    assert error.status == status
    assert len(script.sent) == 1


async def test_rejection_carries_the_vendors_words_and_code_in_one_line() -> None:
    error = await outcome(Script([answer(400, b'{"message":"no\\nway","code":"bad_request"}')]), BARE)
    assert "no way" in str(error)
    assert error.code == "bad_request"


async def test_vendor_that_echoes_the_secret_does_not_get_it_into_the_error() -> None:
    secret = Credentials().secrets()[0]
    error = await outcome(Script([answer(400, b'{"message":"bad key ' + secret.encode() + b'"}')]), BARE)
    assert secret not in str(error)
    assert "[hidden]" in str(error)


@pytest.mark.parametrize("effect", EVERY)
async def test_rejection_carries_what_is_wrong_with_fields_and_with_the_whole(effect: Effect) -> None:
    error = await outcome(Script([answer(400, DETAILS)]), effect)
    nonce = FieldError(field="nonce", message="too long", code="max_length")
    for twin in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert twin.details == (nonce, FieldError(field="", message="no"))
        assert twin.field_errors == (nonce,)


# --- 4xx that says the key is known -----------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", WRITES)
@pytest.mark.parametrize(("status", "body"), [(409, b"{}"), (400, ALREADY_USED), (404, ALREADY_USED), (422, ALREADY_USED)])
async def test_a_refusal_because_the_key_is_known_is_outcome_unknown(effect: Effect, status: int, body: bytes) -> None:
    script = Script([answer(status, body), OK])
    error = await outcome(script, effect, says_known=about_the_nonce, asked=("what", "was asked for"))
    assert type(error) is OutcomeUnknown
    assert (error.request, error.status, error.idempotency_key) == (("what", "was asked for"), status, "key-1")
    assert len(script.sent) == 1
    assert bool(error.details) is (body is ALREADY_USED)
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert twin.__dict__ == error.__dict__


@pytest.mark.parametrize("effect", WRITES)
@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_refusal_for_another_reason_stands(effect: Effect, status: int) -> None:
    error = await outcome(Script([answer(status, DETAILS)]), effect, says_known=about_the_nonce)
    assert isinstance(error, RequestRejected)


@pytest.mark.parametrize("effect", WRITES)
@pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, Forbidden), (429, RateLimited)])
async def test_refusals_that_say_nothing_of_the_request_are_never_asked(
    effect: Effect, status: int, kind: type[VendorError]
) -> None:
    error = await outcome(Script([answer(status, ALREADY_USED)]), effect, says_known=lambda _: True)
    assert type(error) is kind


@pytest.mark.parametrize("effect", WRITES)
async def test_2xx_that_says_the_key_is_known_is_outcome_unknown(effect: Effect) -> None:
    error = await outcome(Script([answer(200, b'{"ok":false}')]), effect, says_known=lambda error: error.code == "1")
    assert type(error) is OutcomeUnknown


async def test_credentials_that_cannot_be_configured_are_a_mistake_unless_something_may_have_arrived() -> None:
    class Misconfigured(Credentials):
        healthy = 0

        async def headers(self, timeout: float) -> Headers:
            if not self.healthy:
                raise ConfigurationError("no such file")
            self.healthy -= 1
            return await super().headers(timeout)

    authorizer = Misconfigured()
    assert type(await outcome(Script([LOST, OK], authorizer=authorizer), Effect.KEYED)) is ConfigurationError
    authorizer.healthy = 1
    assert type(await outcome(Script([LOST, OK], authorizer=authorizer), Effect.KEYED)) is OutcomeUnknown


async def test_a_refusal_of_the_credentials_says_nothing_of_the_key() -> None:
    class Refused(Credentials):
        async def headers(self, timeout: float) -> Headers:
            raise RequestRejected("a log-in is in progress already", status=409)

    script = Script([OK], authorizer=Refused())
    assert type(await outcome(script, BARE, says_known=about_the_nonce)) is RequestRejected
    assert not script.sent
    renewing = Script([answer(401)], authorizer=NoOther(RequestRejected("in progress already", status=409)))
    assert type(await outcome(renewing, BARE, says_known=about_the_nonce)) is RequestRejected


@pytest.mark.parametrize("effect", EVERY)
async def test_2xx_that_says_no_is_a_rejection(effect: Effect) -> None:
    error = await outcome(Script([answer(200, b'{"ok":false}')]), effect)
    assert type(error) is RequestRejected
    assert (error.code, error.status, error.attempts) == ("1", 200, 1)
