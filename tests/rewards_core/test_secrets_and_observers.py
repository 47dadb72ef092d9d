from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from aioresponses import aioresponses

from enkash_async import PasswordCredentials, StaticToken
from original_async import OriginalClient, OriginalWebhooks
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    ConfigurationError,
    Conflict,
    ConnectFailed,
    DeadlineExceeded,
    FieldError,
    OperationFailed,
    OperationMismatch,
    OutcomeUnknown,
    RateLimited,
    RewardsError,
    SignatureError,
    UnexpectedResponse,
    ValidationFailed,
    VendorError,
)
from rewards_core.http.messages import Effect
from rewards_core.observe import CallEnded, CallRetried, CallStarted, Observers
from rewards_core.operations import OperationRef
from rewards_core.secrets import Secret
from tests.rewards_core.call_kit import SECRET, Watcher, request_to
from tests.rewards_core.conftest import MakeTransport
from tests.texts import said


def test_secret_shows_itself_nowhere() -> None:
    secret = Secret("s3cr3t-canary", "api_secret")
    assert "canary" not in f"{secret!r} {secret} {[secret]} {secret!s:>30}"
    assert secret.reveal() == "s3cr3t-canary"
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"a": secret})["a"] is secret
    with pytest.raises(TypeError, match=r"^api_secret: "):
        pickle.dumps(secret)


def test_secrets_compare_by_content() -> None:
    assert Secret("a") == Secret("a", "other name")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


@pytest.mark.parametrize(
    ("value", "error"), [("", ValueError), ("  ", ValueError), ("a\udcff", ValueError), (None, TypeError), (b"x", TypeError)]
)
def test_empty_or_odd_secrets_are_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="api_secret"):
        Secret(value, "api_secret")


DAMAGED = [
    "a-secret\n",
    "a-secret\r\n",
    " a-secret",
    "a secret",
    "a\tsecret",
    "a\u00a0secret",
    "a\x00secret",
    "a\u200bsecret",
    "\ufeffa-secret",
    "a\u202esecret",
    "a\u3164secret",
    "a\u2800secret",
    "a-secret\ufe0f",
    '"a-secret"',
    "'a-secret'",
    "\u201ca-secret\u201d",
    "${API_SECRET}",
    "a-${REGION}-secret",
    "{{ api_secret }}",
    "$(cat secret)",
    "$API_SECRET",
    "%API_SECRET%",
]


@pytest.mark.parametrize("value", DAMAGED)
@pytest.mark.parametrize(
    "make",
    [
        lambda value: Secret(value, "secret"),
        lambda value: OriginalClient("key", value),
        lambda value: OriginalWebhooks({"4o3vfxtcmo7b": value}),
        lambda value: PasswordCredentials("CEK1GZBO6A", value, "user", "password"),
        lambda value: StaticToken(value),
    ],
    ids=["Secret", "OriginalClient", "OriginalWebhooks", "PasswordCredentials", "StaticToken"],
)
def test_a_damaged_secret_is_refused_and_not_shown(make: Callable[[str], Any], value: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)(secret|token).*: .*\. [A-Z]") as caught:
        make(value)
    assert value not in str(caught.value)


def test_each_error_about_a_secret_says_how_it_was_damaged() -> None:
    lines = []
    for value in ("", "  ", None, *DAMAGED):
        with pytest.raises((TypeError, ValueError)) as caught:
            Secret(value, "api_secret")  # type: ignore[arg-type]
        lines.append(f"{value!a}\n    {caught.value}")
    said("secrets: what is refused", "\n".join(lines))


@pytest.mark.parametrize("value", ["pa$$word", "100%", "a'b\"c", "größer", "x" * 10_000, "$", "a=b&c"])
def test_a_secret_may_hold_whatever_shows(value: str) -> None:
    assert Secret(value).reveal() == value


def test_a_password_may_have_spaces_inside() -> None:
    assert Secret("correct horse", "password", spaces=True).reveal() == "correct horse"
    with pytest.raises(ValueError, match=r"^password: "):
        Secret("correct horse ", "password", spaces=True)


async def test_observers_see_start_retries_and_end_without_secrets(make_transport: MakeTransport) -> None:
    watcher = Watcher()
    transport = make_transport(observers=[watcher], retry=RetryPolicy(attempts=3, first_delay=0.001))
    with pytest.raises(ConnectFailed):
        await transport.call(request_to(transport, Effect.KEYED, key="nonce-1"))
    start, first, second, end = watcher.records
    assert start == CallStarted(operation="do_it", method="POST", path="/v1/thing", idempotency_key="nonce-1")
    assert isinstance(first, CallRetried)
    assert (first.attempt, second.attempt, second.status) == (1, 2, None)
    assert first.idempotency_key == second.idempotency_key == "nonce-1"
    assert isinstance(end, CallEnded)
    assert (end.attempts, end.error) == (3, "ConnectFailed")
    assert SECRET not in repr(watcher.records)


async def test_observers_see_a_call_that_ends_well(make_transport: MakeTransport) -> None:
    watcher = Watcher()
    with aioresponses() as mocked:
        mocked.get("http://127.0.0.1:1/v1/thing", payload={"a": 1})
        transport = make_transport(observers=[watcher])
        assert await transport.call(request_to(transport)) == {"a": 1}
    assert [type(record) for record in watcher.records] == [CallStarted, CallEnded]
    assert (watcher.records[1].status, watcher.records[1].error) == (200, None)


async def test_observer_that_raises_is_logged_and_the_call_goes_on(
    make_transport: MakeTransport, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty:
        def on_end(self, record: Any) -> None:
            raise RuntimeError("boom")

    transport = make_transport(observers=[Faulty()], retry=RetryPolicy(attempts=1))
    with caplog.at_level(logging.ERROR), pytest.raises(ConnectFailed):
        await transport.call(request_to(transport))
    (line,) = [record for record in caplog.records if record.name == "rewards_core.observe"]
    assert line.levelno == logging.ERROR


def test_observer_without_any_method_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^observers: "):
        Observers([object()])


@pytest.mark.parametrize("observers", [None, 7, object(), iter([])])
def test_observers_that_are_no_list_are_refused(observers: Any) -> None:
    with pytest.raises(TypeError, match=r"^observers: "):
        Observers(observers)


def test_errors_without_text_still_show_their_kind() -> None:
    error = RewardsError.__new__(RewardsError)
    assert str(error) == "RewardsError"
    assert pickle.loads(pickle.dumps(SignatureError("no", reason="missing"))).reason == "missing"


def test_every_error_is_picklable_with_its_facts() -> None:
    ref = OperationRef("default", "allocation", "1")
    made: list[Any] = [
        Conflict("c", existing=ref, status=400),
        OperationFailed("f", operation=ref),  # type: ignore[arg-type]
        OperationMismatch("m", operation=ref, asked=ref, differences={"amount": ("1", "2")}),  # type: ignore[arg-type]
        RateLimited("r", retry_after=3.0, attempts=2),
        UnexpectedResponse("u", path="data.uid"),
        DeadlineExceeded("d", elapsed=1.5),
        OutcomeUnknown("o", request=ref, idempotency_key="nonce-1"),
        ConfigurationError("c"),
        ValidationFailed("v", details=[FieldError(field="", message="m", code="unique")]),
    ]
    for error in made:
        for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert type(twin) is type(error)
            assert twin.__dict__ == error.__dict__
            assert str(twin) == str(error)


def test_a_configuration_error_is_a_value_error_and_no_answer_of_a_vendor() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert not issubclass(ConfigurationError, VendorError)
