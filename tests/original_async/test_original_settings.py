"""The addresses of the client, and its environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from original_async import OriginalClient
from original_async.settings import base_url_from, options_from
from tests.canary import locals_with
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
    ("options", "name"),
    [
        ({"environment": "staging"}, "environment"),
        ({"environment": None}, "environment"),
        ({"environment": []}, "environment"),
        ({"environment": "prod", "base_url": "https://example.com/v1"}, "environment"),
        ({"read_path": "claim"}, "read_path"),
        ({"amount_as": "float"}, "amount_as"),
        ({"scope": ""}, "scope"),
    ],
)
def test_what_cannot_be_is_refused(make_client: MakeClient, options: dict[str, Any], name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        make_client(**options)


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


def test_an_unknown_environment_variable_value_is_named(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("ORIGINAL_ENVIRONMENT", "staging")
    with pytest.raises(ValueError, match="ORIGINAL_ENVIRONMENT"):
        OriginalClient.from_env()


@pytest.mark.parametrize("base_url", ["", "https://example.com/v1", "https://example.com/v1/", "http://127.0.0.1:9400/v1"])
@pytest.mark.parametrize("environment", ["", "production", "development"])
def test_the_environment_means_one_address_whoever_reads_it(environ: pytest.MonkeyPatch, environment: str, base_url: str) -> None:
    environ.setenv("ORIGINAL_ENVIRONMENT", environment)
    environ.setenv("ORIGINAL_BASE_URL", base_url)
    assert base_url_from(os.environ) == address(OriginalClient.from_env())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ORIGINAL_API_KEY", "canary key"),
        ("ORIGINAL_API_SECRET", "'canary'"),
        ("ORIGINAL_BASE_URL", "https://me:canary@example.com"),
        ("ORIGINAL_BASE_URL", "http://canary.example"),
        ("ORIGINAL_BASE_URL", "canary"),
        ("ORIGINAL_ENVIRONMENT", "canary"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_and_stays_in_no_frame(
    environ: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environ.setenv(name, value)
    readers: list[Callable[[], object]] = [
        OriginalClient.from_env,
        lambda: options_from(os.environ, {}),
        lambda: base_url_from(os.environ),
    ]
    for read in readers if name in {"ORIGINAL_BASE_URL", "ORIGINAL_ENVIRONMENT"} else readers[:2]:
        with pytest.raises(ValueError, match=name) as caught:
            read()
        assert "canary" not in str(caught.value)
        assert locals_with(caught.value, ["canary"]) == []


def test_both_missing_credentials_are_named_at_once(environ: pytest.MonkeyPatch) -> None:
    environ.delenv("ORIGINAL_API_KEY")
    environ.delenv("ORIGINAL_API_SECRET")
    with pytest.raises(ValueError, match=r"ORIGINAL_API_KEY\b.*ORIGINAL_API_SECRET\b"):
        OriginalClient.from_env()
