"""The client's environment variables."""

from __future__ import annotations

import inspect

import pytest

from enkash_async import EnkashClient, PasswordCredentials, StaticToken
from enkash_async.settings import ClientOptions, settings_from_env
from tests.enkash_async.enkash_kit import ENVIRONMENT


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Set only the required variables."""
    for name in ("ENKASH_COMPANY_ID", "ENKASH_ACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_whatever_the_client_takes_can_be_given_beside_the_environment() -> None:
    assert ClientOptions.__annotations__.keys() == inspect.signature(EnkashClient).parameters.keys()


def test_everything_comes_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    assert repr(EnkashClient.from_env()) == "<EnkashClient at https://coins.example>"
    assert settings_from_env({}) == {
        "credentials": PasswordCredentials("CEK1GZBO6A", "client-secret-1", "9000000000", "pass-word-1"),
        "coins_base_url": "https://coins.example",
        "auth_base_url": "https://auth.example",
        "company_id": None,
    }


def test_the_company_can_be_another() -> None:
    assert settings_from_env({}, {**ENVIRONMENT, "ENKASH_COMPANY_ID": "CEKOTHER01"})["company_id"] == "CEKOTHER01"


def test_an_explicit_argument_wins(environment: pytest.MonkeyPatch) -> None:
    given: ClientOptions = {
        "credentials": StaticToken("own"),
        "coins_base_url": "https://other.example",
        "auth_base_url": None,
        "company_id": "C",
    }

    assert settings_from_env(given) == given
    assert repr(EnkashClient.from_env(**given)) == "<EnkashClient at https://other.example>"


def test_a_token_takes_the_place_of_credentials_and_address() -> None:
    environment = {"ENKASH_COINS_BASE_URL": "https://coins.example", "ENKASH_ACCESS_TOKEN": "own"}

    assert settings_from_env({}, environment) == {
        "credentials": StaticToken("own"),
        "coins_base_url": "https://coins.example",
        "auth_base_url": None,
        "company_id": None,
    }


def test_a_token_beside_credentials_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"^ENKASH_ACCESS_TOKEN .*ENKASH_CLIENT_ID",
    ):
        settings_from_env({}, {**ENVIRONMENT, "ENKASH_ACCESS_TOKEN": "own"})
