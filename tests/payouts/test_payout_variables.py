"""What is missing or wrong in the environment is named as the operator set it, and no secret is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from payouts.cli.connections import client_of, webhook_source
from tests.payouts.command_kit import TWO, Call, run_of
from tests.texts import said

SECRET = "tell-tale-" + "s" * 32
TOKENS = {"ORIGINAL_API_KEY": "key", "ORIGINAL_API_SECRET": SECRET}
COINS = {
    "ENKASH_CLIENT_ID": "CEKX",
    "ENKASH_CLIENT_SECRET": SECRET,
    "ENKASH_USERNAME": "9000000000",
    "ENKASH_PASSWORD": SECRET,
    "ENKASH_COINS_BASE_URL": "https://coins.example",
    "ENKASH_AUTH_BASE_URL": "https://auth.example",
}


@pytest.mark.parametrize(
    ("name", "vendor_name", "variables"),
    [
        ("nothing set for Original", "original", {}),
        ("no secret", "original", {"ORIGINAL_API_KEY": "key"}),
        ("an unknown environment", "original", TOKENS | {"ORIGINAL_ENVIRONMENT": f"tell-tale {SECRET}"}),
        ("a base URL with http", "original", TOKENS | {"ORIGINAL_BASE_URL": "http://tell-tale.example/v1"}),
        ("a base URL with a password", "original", TOKENS | {"ORIGINAL_BASE_URL": "https://me:tell-tale@api.example/v1"}),
        ("a base URL that is none", "original", TOKENS | {"ORIGINAL_BASE_URL": "tell-tale.example/v1"}),
        ("an API key of two words", "original", TOKENS | {"ORIGINAL_API_KEY": "tell-tale key"}),
        ("an API secret of spaces", "original", TOKENS | {"ORIGINAL_API_SECRET": "  "}),
        ("nothing set for EnKash", "enkash", {}),
        ("no password", "enkash", COINS | {"ENKASH_PASSWORD": ""}),
        ("an access token without a base URL", "enkash", {"ENKASH_ACCESS_TOKEN": SECRET}),
        ("credentials and a token", "enkash", COINS | {"ENKASH_ACCESS_TOKEN": SECRET}),
        ("a token of two lines", "enkash", {"ENKASH_ACCESS_TOKEN": "tell\ntale", "ENKASH_COINS_BASE_URL": "https://c.example"}),
        ("a wrong host for tokens", "enkash", COINS | {"ENKASH_AUTH_BASE_URL": "http://tell-tale.example"}),
        ("a wrong company", "enkash", COINS | {"ENKASH_COMPANY_ID": "tell tale"}),
        ("a client id with a colon", "enkash", COINS | {"ENKASH_CLIENT_ID": "tell:tale"}),
    ],
)
def test_what_the_environment_lacks_is_named_and_never_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, vendor_name: str, variables: dict[str, str]
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"{vendor_name.upper()}_") as refused:
        client_of(vendor_name)
    assert not re.search(r"tell.?tale|_?base_url=|allow_insecure|expected", str(refused.value))
    said(f"variables: {name}", str(refused.value))


@pytest.mark.parametrize("variables", [COINS, {"ENKASH_ACCESS_TOKEN": "t", "ENKASH_COINS_BASE_URL": "https://c.example"}])
def test_coins_need_the_four_credentials_or_a_token(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert "EnkashClient" in repr(client_of("enkash"))


@pytest.mark.parametrize(
    ("name", "variables", "content"),
    [
        ("no webhook keys", {}, None),
        ("webhook keys that are none", {"ORIGINAL_WEBHOOK_KEYS": "tell-tale"}, None),
        ("an id that is none", {"ORIGINAL_WEBHOOK_KEYS": '{"tell tale": "s"}'}, None),
        ("no file of webhook keys", {}, ""),
        ("a file without keys", {}, "# tell-tale\n"),
        ("an app that is none", {"ORIGINAL_WEBHOOK_KEYS": "a:b", "ORIGINAL_APP_UID": "tell tale"}, None),
    ],
)
def test_webhook_keys_that_cannot_be_used_are_named_and_never_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, variables: dict[str, str], content: str | None
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    if content:
        (folder / "keys.txt").write_text(content)
    with pytest.raises(ValueError, match=r"ORIGINAL_|keys\.txt") as refused:
        webhook_source(None if content is None else Path("keys.txt"), scope="default")
    assert "tell" not in str(refused.value)
    said(f"variables: {name}", str(refused.value))


def test_a_run_without_credentials_says_what_to_set(call: Call, folder: Path) -> None:
    (folder / "rewards.csv").write_text(TWO)
    result = call(*run_of())
    assert (result.exit_code, (folder / "payouts.db").exists()) == (2, False)
    assert "ORIGINAL_API_KEY" in result.stderr
