"""Where the client speaks to, and what it takes from the environment."""

from __future__ import annotations

from typing import Any

import pytest

from original_async import OriginalClient
from tests.original_async.conftest import MakeClient

SECRET = "a-secret-of-more-than-thirty-two-bytes"
VARIABLES = ("ORIGINAL_API_KEY", "ORIGINAL_API_SECRET", "ORIGINAL_BASE_URL", "ORIGINAL_ENVIRONMENT")


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORIGINAL_API_KEY", "key")
    monkeypatch.setenv("ORIGINAL_API_SECRET", SECRET)
    return monkeypatch


def address(client: OriginalClient) -> str:
    return repr(client).split()[2].rstrip(",")


def test_each_environment_has_its_address(make_client: MakeClient) -> None:
    assert address(make_client()) == "https://api.getoriginal.com/v1"
    assert address(make_client(environment="development")) == "https://api-dev.getoriginal.com/v1"


def test_a_base_url_goes_before_the_environment(make_client: MakeClient) -> None:
    assert address(make_client(environment="development", base_url="https://example.com/v1/")) == "https://example.com/v1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"environment": "staging"}, "environment: give one of 'production', 'development', not 'staging'"),
        ({"environment": None}, "environment: give one of"),
        ({"environment": []}, "environment: give one of"),
        ({"environment": "prod", "base_url": "https://example.com/v1"}, "environment: give one of"),
        ({"read_path": "claim"}, "read_path: give one of 'auto', 'allocation', 'allocate', not 'claim'"),
        ({"amount_as": "float"}, "amount_as: give one of 'string', 'number', not 'float'"),
        ({"scope": ""}, "scope: .* is not an id"),
        ({"allow_insecure": "false"}, "^allow_insecure: give True or False, not str"),
        ({"base_url": "https://example.com/v1", "allow_insecure": 1}, "^allow_insecure: give True or False, not int"),
        ({"clock": 5}, "^clock: give a function, not int"),
        ({"random": 5}, "^random: give a function, not int"),
        ({"base_url": "http://example.com/v1"}, "base_url: http to .*allow_insecure=True"),
        ({"base_url": "https://user:canary@example.com"}, "base_url: there are credentials"),
        ({"base_url": "https://example.com/v1?api_key=canary"}, "query or fragment"),
        ({"base_url": "example.com"}, "base_url: give an absolute http or https URL"),
    ],
)
def test_what_cannot_be_is_refused(make_client: MakeClient, options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        make_client(**options)
    assert "canary" not in str(caught.value)


def test_plain_http_may_be_asked_for(make_client: MakeClient) -> None:
    assert address(make_client(base_url="http://example.com/v1", allow_insecure=True)) == "http://example.com/v1"
    assert address(make_client(base_url="http://127.0.0.1:9400/v1")) == "http://127.0.0.1:9400/v1"


def test_everything_can_come_from_the_environment(environ: pytest.MonkeyPatch) -> None:
    assert address(OriginalClient.from_env()) == "https://api.getoriginal.com/v1"
    environ.setenv("ORIGINAL_ENVIRONMENT", "development")
    assert address(OriginalClient.from_env()) == "https://api-dev.getoriginal.com/v1"
    environ.setenv("ORIGINAL_BASE_URL", "https://example.com/v1")
    assert address(OriginalClient.from_env()) == "https://example.com/v1"


def test_an_argument_wins_over_the_environment(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("ORIGINAL_BASE_URL", "https://example.com/v1")
    environ.setenv("ORIGINAL_ENVIRONMENT", "development")
    assert address(OriginalClient.from_env(base_url="https://other.example/v1")) == "https://other.example/v1"
    assert address(OriginalClient.from_env(environment="production")) == "https://api.getoriginal.com/v1"
    assert address(OriginalClient.from_env(base_url=None)) == "https://api-dev.getoriginal.com/v1"
    environ.delenv("ORIGINAL_API_SECRET")
    assert OriginalClient.from_env(api_secret=SECRET, scope="second").scope == "second"


def test_an_empty_variable_is_absent(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("ORIGINAL_BASE_URL", "")
    environ.setenv("ORIGINAL_ENVIRONMENT", "")
    assert address(OriginalClient.from_env()) == "https://api.getoriginal.com/v1"


@pytest.mark.parametrize("name", ["ORIGINAL_API_KEY", "ORIGINAL_API_SECRET"])
@pytest.mark.parametrize("value", [None, ""])
def test_missing_credentials_are_named(environ: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    environ.delenv(name)
    if value is not None:
        environ.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{name}: expected a value .* pass {name[9:].lower()}="):
        OriginalClient.from_env()


def test_an_unknown_environment_variable_value_is_named(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("ORIGINAL_ENVIRONMENT", "staging")
    with pytest.raises(ValueError, match=r"^ORIGINAL_ENVIRONMENT: give one of"):
        OriginalClient.from_env()
