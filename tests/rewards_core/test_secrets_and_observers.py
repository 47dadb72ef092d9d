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
from rewards_core.text import hide, one_line
from tests.rewards_core.call_kit import SECRET, Watcher, request_to
from tests.rewards_core.conftest import MakeTransport


def test_secret_shows_itself_nowhere() -> None:
    secret = Secret("s3cr3t-canary", "api_secret")
    assert "canary" not in f"{secret!r} {secret} {[secret]} {secret!s:>30}"
    assert secret.reveal() == "s3cr3t-canary"
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"a": secret})["a"] is secret
    with pytest.raises(TypeError, match="api_secret: a secret does not leave its process"):
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


SPOILT = [
    ("a-secret\n", "ends with a line break"),
    ("a-secret\r\n", "ends with a line break"),
    (" a-secret", "white space"),
    ("a secret", "white space"),
    ("a\tsecret", "white space"),
    ("a\u00a0secret", "white space"),
    ("a\x00secret", r"invisible character \(U\+0000\)"),
    ("a\u200bsecret", r"invisible character \(U\+200B\)"),
    ("\ufeffa-secret", r"invisible character \(U\+FEFF\)"),
    ("a\u202esecret", r"invisible character \(U\+202E\)"),
    ("a\u3164secret", r"invisible character \(U\+3164\)"),
    ("a\u2800secret", r"invisible character \(U\+2800\)"),
    ("a-secret\ufe0f", r"invisible character \(U\+FE0F\)"),
    ('"a-secret"', "stands in quotes"),
    ("'a-secret'", "stands in quotes"),
    ("\u201ca-secret\u201d", "stands in quotes"),
    ("${API_SECRET}", "placeholder"),
    ("a-${REGION}-secret", "placeholder"),
    ("{{ api_secret }}", "placeholder"),
    ("$(cat secret)", "placeholder"),
    ("$API_SECRET", "placeholder"),
    ("%API_SECRET%", "placeholder"),
]


@pytest.mark.parametrize(("value", "words"), SPOILT)
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
def test_a_secret_that_was_spoilt_on_its_way_is_refused_in_words(make: Callable[[str], Any], value: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"(?i)(secret|token).*: .*{words}.*\. [A-Z]") as caught:
        make(value)
    assert value not in str(caught.value)


@pytest.mark.parametrize("value", ["pa$$word", "100%", "a'b\"c", "größer", "x" * 10_000, "$", "a=b&c"])
def test_a_secret_may_hold_whatever_shows(value: str) -> None:
    assert Secret(value).reveal() == value


def test_a_password_may_have_spaces_inside() -> None:
    assert Secret("correct horse", "password", spaces=True).reveal() == "correct horse"
    with pytest.raises(ValueError, match="white space around it"):
        Secret("correct horse ", "password", spaces=True)


@pytest.mark.parametrize("written", ['a"key', 'a\\"key', "a%22key"])
def test_a_secret_is_hidden_however_a_stranger_writes_it(written: str) -> None:
    assert hide(f"you sent {written} here", ('a"key',)) == "you sent [hidden] here"


def test_strangers_text_becomes_one_printable_line() -> None:
    assert one_line("a\r\n\x1b[31mb\u2028\u202ec") == "a [31mb c"
    assert one_line("x" * 400) == "x" * 299 + "…"
    assert hide("a key here", ("key",)) == "a [hidden] here"


async def test_observers_see_start_retries_and_end_without_secrets(make_transport: MakeTransport) -> None:
    watcher = Watcher()
    transport = make_transport(observers=[watcher], retry=RetryPolicy(attempts=3, first_delay=0.001))
    with pytest.raises(ConnectFailed):
        await transport.call(request_to(transport, Effect.KEYED, key="nonce-1"))
    start, first, second, end = watcher.records
    assert start == CallStarted(operation="do_it", method="POST", path="/v1/thing", idempotency_key="nonce-1")
    assert isinstance(first, CallRetried)
    assert (first.attempt, second.attempt, second.status) == (1, 2, None)
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
    assert "an observer raised" in caplog.text


def test_observer_without_any_method_is_refused() -> None:
    with pytest.raises(TypeError, match="on_start, on_retry or on_end"):
        Observers([object()])


@pytest.mark.parametrize("observers", [None, 7, object(), iter([])])
def test_observers_that_are_no_list_are_refused(observers: Any) -> None:
    with pytest.raises(TypeError, match=r"^observers: give a list of objects such as \[observer\], not \w+\.$"):
        Observers(observers)


def test_errors_without_text_still_show_their_kind() -> None:
    error = RewardsError.__new__(RewardsError)
    assert str(error) == "RewardsError"
    assert pickle.loads(pickle.dumps(SignatureError("no", reason="missing"))).reason == "missing"


def test_every_error_is_picklable_with_its_facts() -> None:
    ref = OperationRef("default", "allocation", "1")
    made: list[Any] = [
        Conflict("c", existing=ref, status=400),  # type: ignore[arg-type]
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
