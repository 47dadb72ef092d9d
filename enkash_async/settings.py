"""The client's options, those that environment variables set, and extra headers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from enkash_async.credentials import PasswordCredentials, StaticToken, TokenProvider, hide_credentials, hide_token
from rewards_core.base_urls import url_from
from rewards_core.secrets import shielded
from rewards_core.text import listed
from rewards_core.validation import check_mapping, check_str, is_id, shown

if TYPE_CHECKING:
    from enkash_async.breakers import BreakerStore
    from enkash_async.encryption import BodyCipher
    from rewards_core.backoff import RetryPolicy
    from rewards_core.http.timeouts import Timeouts
    from rewards_core.http.transport import Session
    from rewards_core.rate import Limits

COINS_BASE_URL = "ENKASH_COINS_BASE_URL"
AUTH_BASE_URL = "ENKASH_AUTH_BASE_URL"
COMPANY_ID = "ENKASH_COMPANY_ID"
ACCESS_TOKEN = "ENKASH_ACCESS_TOKEN"  # noqa: S105 - the name of a variable
CREDENTIALS = ("ENKASH_CLIENT_ID", "ENKASH_CLIENT_SECRET", "ENKASH_USERNAME", "ENKASH_PASSWORD")
RESERVED = frozenset({"authorization", "accept", "content-type", "content-length", "host", "transfer-encoding", "connection"})

_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII).fullmatch
_header_value = re.compile(r"[\x20-\x7e]+", re.ASCII).fullmatch


class ClientOptions(TypedDict, total=False):
    """The arguments of `EnkashClient`, which `from_env` accepts as well."""

    coins_base_url: str
    auth_base_url: str | None
    credentials: PasswordCredentials | TokenProvider
    company_id: str | None
    repeat_allocations: bool
    session: Session | None
    timeouts: Timeouts | None
    retry: RetryPolicy | None
    limits: Limits | None
    observers: Sequence[Any]
    token_lifetime: float | None
    breaker_store: BreakerStore | None
    encryption: bool | BodyCipher
    extra_headers: Mapping[str, str] | None
    allow_insecure: bool
    clock: Callable[[], float]
    random: Callable[[], float]


@shielded
def settings_from_env(arguments: ClientOptions, environ: Mapping[str, str] | None = None) -> ClientOptions:
    """Return the arguments of a client, those not given taken from the environment; an empty variable counts as missing.

    Args:
        arguments: The arguments given, which override the variables.
        environ: The variables; by default those of the process.

    Raises:
        ValueError: a variable is missing or invalid, or credentials and an access token are both set; the error names the
            variables and does not show their values.
    """
    variables = {name: value for name, value in (os.environ if environ is None else environ).items() if value}
    settings = arguments.copy()
    required = [] if "credentials" in settings or ACCESS_TOKEN in variables else [*CREDENTIALS]
    missing = [name for name in required if name not in variables]
    asks = isinstance(settings["credentials"], PasswordCredentials) if "credentials" in settings else bool(required)
    urls = {COINS_BASE_URL: "coins_base_url" not in settings, AUTH_BASE_URL: asks and "auth_base_url" not in settings}
    hosts = [name for name, needed in urls.items() if needed and name not in variables]
    if missing or hosts:
        instead = f" Or set {ACCESS_TOKEN} instead of the four credentials." if missing == [*CREDENTIALS] else ""
        about = " EnKash gives each company its base URLs." if hosts else ""
        raise ValueError(f"Set {listed([*missing, *hosts])}.{instead}{about}")
    insecure = settings.get("allow_insecure", False)
    if "credentials" not in settings:
        settings["credentials"] = _credentials(variables)
    if "coins_base_url" not in settings:
        settings["coins_base_url"] = url_from(variables, COINS_BASE_URL, allow_insecure=insecure) or ""
    if "auth_base_url" not in settings:
        settings["auth_base_url"] = url_from(variables, AUTH_BASE_URL, allow_insecure=insecure)
    if "company_id" not in settings:
        settings["company_id"] = variables.get(COMPANY_ID)
        if settings["company_id"] is not None and not is_id(settings["company_id"]):
            raise ValueError(f"{COMPANY_ID} is not a company id: copy it again, without spaces.")
    return settings


def check_extra_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return extra headers that do not replace the client's own.

    Raises:
        TypeError: a name or a value is not a str.
        ValueError: a header cannot be sent, or the client sets it itself; no value is shown.
    """
    for name, value in check_mapping(headers, "extra_headers", "a mapping of names to values").items():
        check_str(name, "extra_headers, a name")
        check_str(value, f"extra_headers, the value of {shown(name)}")
        if not _header_name(name) or not _header_value(value):
            raise ValueError(
                f"extra_headers: {shown(name)} cannot be sent. Use printable ASCII characters in its name and value."
            )
        if name.lower() in RESERVED:
            raise ValueError(f"extra_headers: the client sets {shown(name)} itself. Leave it out.")
    return dict(headers)


def _credentials(variables: Mapping[str, str]) -> PasswordCredentials | StaticToken:
    given = {name: variables[name] for name in CREDENTIALS if name in variables}
    if ACCESS_TOKEN not in variables:
        hide_credentials(given)
        return PasswordCredentials(*given.values())
    if given:
        raise ValueError(f"{ACCESS_TOKEN} replaces the four credentials: unset it, or unset {listed(given)}.")
    hide_token(variables[ACCESS_TOKEN], ACCESS_TOKEN)
    return StaticToken(variables[ACCESS_TOKEN])
