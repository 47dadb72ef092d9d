"""Original's addresses, environment variables and client options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from rewards_core.base_urls import check_base_url, url_from
from rewards_core.secrets import Secret, shielded
from rewards_core.text import listed
from rewards_core.validation import check_choice, is_id

if TYPE_CHECKING:
    from rewards_core.backoff import RetryPolicy
    from rewards_core.http.timeouts import Timeouts
    from rewards_core.http.transport import Session
    from rewards_core.rate import Limits

Environment = Literal["production", "development"]
ReadPath = Literal["auto", "allocation", "allocate"]
AmountAs = Literal["string", "number"]

BASE_URLS: Mapping[str, str] = {
    "production": "https://api.getoriginal.com/v1",
    "development": "https://api-dev.getoriginal.com/v1",
}
"""A key pair belongs to one app, and an app to one environment: a development key works only in development."""
API_KEY, API_SECRET = "ORIGINAL_API_KEY", "ORIGINAL_API_SECRET"
ENVIRONMENT, BASE_URL = "ORIGINAL_ENVIRONMENT", "ORIGINAL_BASE_URL"
WEBHOOK_KEYS = "ORIGINAL_WEBHOOK_KEYS"
APP_UID = "ORIGINAL_APP_UID"
WEBHOOK_PATH = "/webhooks/original"
"""The default path of webhooks in the command lines."""

_CREDENTIALS: Mapping[Literal["api_key", "api_secret"], str] = {"api_key": API_KEY, "api_secret": API_SECRET}


class ClientOptions(TypedDict, total=False):
    """The arguments of `OriginalClient`, which `from_env` accepts as well."""

    api_key: str
    api_secret: str
    environment: Environment
    base_url: str | None
    session: Session | None
    timeouts: Timeouts
    retry: RetryPolicy
    limits: Limits
    observers: Sequence[Any]
    read_path: ReadPath
    amount_as: AmountAs
    token_lifetime: float | None
    scope: str
    allow_insecure: bool
    clock: Callable[[], float]
    random: Callable[[], float]


@shielded
def find_base_url(environment: str, base_url: str | None, *, allow_insecure: bool) -> str:
    """Return `base_url`, or the address of the environment if it is None.

    Raises:
        ValueError: there is no such environment, or credentials must not be sent to `base_url`.
        TypeError: `base_url` is not a str, or `allow_insecure` is not a bool.
    """
    check_choice(environment, "environment", BASE_URLS)
    return check_base_url(BASE_URLS[environment] if base_url is None else base_url, allow_insecure=allow_insecure)


@shielded
def base_url_from(environ: Mapping[str, str], *, allow_insecure: bool = False) -> str:
    """Return the address that the environment sets: `ORIGINAL_BASE_URL`, else that of `ORIGINAL_ENVIRONMENT`.

    Raises:
        ValueError: a variable is invalid; the error names it and does not show its value.
    """
    environment = _environment_from(environ)
    return url_from(environ, BASE_URL, allow_insecure=allow_insecure) or BASE_URLS[environment]


def has_credentials(environ: Mapping[str, str]) -> bool:
    """Return whether the environment holds an API key, so that the vendor can be asked."""
    return bool(environ.get(API_KEY))


def app_uid_from(environ: Mapping[str, str]) -> str | None:
    """Return the app whose webhooks are accepted, None if `ORIGINAL_APP_UID` is missing or empty.

    Raises:
        ValueError: it is not a uid.
    """
    app_uid = environ.get(APP_UID) or None
    if app_uid is not None and not is_id(app_uid):
        raise ValueError(f"{APP_UID} is not the uid of an app: copy it again, without spaces.")
    return app_uid


@shielded
def options_from(environ: Mapping[str, str], given: ClientOptions) -> ClientOptions:
    """Return the client's arguments, those not given taken from the environment; an empty variable counts as missing.

    Raises:
        ValueError: the key or the secret is missing, or a variable is invalid; the error names it and does not show its value.
    """
    options = given.copy()
    wanted = {name: variable for name, variable in _CREDENTIALS.items() if name not in options}
    if missing := [variable for variable in wanted.values() if not environ.get(variable)]:
        raise ValueError(f"Set {listed(missing)}.")
    for name, variable in wanted.items():
        options[name] = Secret(environ[variable], variable).reveal()
    if "environment" not in options:
        options["environment"] = _environment_from(environ)
        if "base_url" not in options:  # a leftover variable must not redirect an environment given as an argument
            options["base_url"] = url_from(environ, BASE_URL, allow_insecure=options.get("allow_insecure", False))
    return options


def _environment_from(environ: Mapping[str, str]) -> Environment:
    name = environ.get(ENVIRONMENT) or "production"
    if name not in BASE_URLS:
        raise ValueError(f"Set {ENVIRONMENT} to {' or '.join(BASE_URLS)}, or leave it unset for production.")
    return cast("Environment", name)
