"""What the command line reads from the environment, and what to set where something is missing or wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import original_async
from enkash_async import settings as enkash
from original_async.settings import APP_UID, BASE_URLS, WEBHOOK_KEYS
from rewards_core.cli.credentials import webhook_keys
from rewards_core.validation import check_base_url, is_id

T = TypeVar("T")

ORIGINAL_KEYS = ("ORIGINAL_API_KEY", "ORIGINAL_API_SECRET")
_ENVIRONMENT = "ORIGINAL_ENVIRONMENT"
_BASE_URL = "ORIGINAL_BASE_URL"
_VARIABLES = frozenset({*ORIGINAL_KEYS, *enkash.CREDENTIALS, enkash.ACCESS_TOKEN, enkash.COMPANY_ID})


def check_original() -> None:
    """Refuse an environment from which no client of Original can be made.

    Raises:
        ValueError: a variable is missing or wrong; the text says what to set, and shows no value.
    """
    if missing := _missing(ORIGINAL_KEYS):
        raise ValueError(f"Set {_listed(missing)}.")
    if os.environ.get(_ENVIRONMENT) and os.environ[_ENVIRONMENT] not in BASE_URLS:
        raise ValueError(f"Set {_ENVIRONMENT} to {' or '.join(BASE_URLS)}, or leave it unset for production.")
    _check_url(_BASE_URL)


def check_enkash() -> None:
    """Refuse an environment from which no client of EnKash can be made.

    Raises:
        ValueError: a variable is missing or wrong; the text says what to set, and shows no value.
    """
    missing = _missing(enkash.CREDENTIALS)
    has_token = bool(os.environ.get(enkash.ACCESS_TOKEN))
    if has_token and len(missing) < len(enkash.CREDENTIALS):
        given = [name for name in enkash.CREDENTIALS if name not in missing]
        raise ValueError(f"{enkash.ACCESS_TOKEN} replaces the four credentials: unset it, or unset {_listed(given)}.")
    urls = [enkash.COINS_BASE_URL] if has_token else [enkash.COINS_BASE_URL, enkash.AUTH_BASE_URL]
    wanted = [*([] if has_token else missing), *_missing(urls)]
    if wanted:
        instead = f" Or set {enkash.ACCESS_TOKEN} instead of the four credentials." if wanted[:4] == [*enkash.CREDENTIALS] else ""
        hosts = " EnKash gives each company its base URLs." if _missing(urls) else ""
        raise ValueError(f"Set {_listed(wanted)}.{instead}{hosts}")
    for name in urls:
        _check_url(name)
    if os.environ.get(enkash.COMPANY_ID) and not is_id(os.environ[enkash.COMPANY_ID]):
        raise ValueError(f"{enkash.COMPANY_ID} is not a company id: copy it again, without spaces.")


def webhook_source(keys_file: Path | None, *, scope: str) -> original_async.OriginalWebhooks:
    """Return what verifies Original's webhooks, with the keys from a file or from the environment.

    Args:
        keys_file: Where the keys are; None reads `ORIGINAL_WEBHOOK_KEYS`.
        scope: That of the client.

    Raises:
        ValueError: the keys or the app's uid are missing or wrong; the text says what to set, and shows no value.
    """
    app_uid = os.environ.get(APP_UID) or None
    if app_uid is not None and not is_id(app_uid):
        raise ValueError(f"{APP_UID} is not the uid of an app: copy it again, without spaces.")
    return original_async.OriginalWebhooks(webhook_keys(keys_file, WEBHOOK_KEYS), scope=scope, app_uid=app_uid)


def naming_variables(vendor: str, make: Callable[[], T]) -> T:
    """Make a client from the environment; an error names the variable that was read, and shows nothing of it.

    Raises:
        ValueError: in place of the client's own, which speaks of arguments.
    """
    try:
        return make()
    except ValueError as problem:
        variable = f"{vendor.upper()}_{str(problem).partition(':')[0].upper()}"
        if variable not in _VARIABLES:
            raise
    raise ValueError(f"{variable} cannot be used: copy it again, and look for spaces, line breaks and missing characters.")


def _check_url(name: str) -> None:
    wrong = _wrong_with(os.environ.get(name, ""))
    if wrong:
        raise ValueError(f"{name} {wrong}")


def _wrong_with(url: str) -> str | None:
    try:
        if url:
            check_base_url(url)
    except ValueError:
        if "@" in url:
            return "holds a user name or password. Remove them: credentials have variables of their own."
        if url.lower().startswith("http://"):
            return "begins with http://, which would show the credentials to the network. Use https://."
        return "is not a base URL. Set it to one such as https://api.example.com/v1."
    return None


def _missing(names: Iterable[str]) -> list[str]:
    return [name for name in names if not os.environ.get(name)]


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
