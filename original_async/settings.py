"""Where Original is, and what its client can be told from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from rewards_core.secrets import shielded
from rewards_core.validation import check_base_url, check_choice

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
"""A key pair belongs to one app, and an app to one environment."""
WEBHOOK_KEYS = "ORIGINAL_WEBHOOK_KEYS"
APP_UID = "ORIGINAL_APP_UID"
WEBHOOK_PATH = "/webhooks/original"
"""Where the command lines take webhooks unless they are told another path."""


class ClientOptions(TypedDict, total=False):
    """The arguments of `OriginalClient`, which `from_env` takes as well."""

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
    """Return where requests go: `base_url` if there is one, else the environment's.

    Raises:
        ValueError: there is no such environment, or credentials must not be sent to `base_url`.
        TypeError: `base_url` is not a str.
    """
    check_choice(environment, "environment", BASE_URLS)
    if base_url is None:
        return BASE_URLS[environment]
    return check_base_url(base_url, name="base_url", allow_insecure=allow_insecure)


def options_from(environ: Mapping[str, str], given: ClientOptions) -> ClientOptions:
    """Return the client's arguments out of environment variables; a given argument wins, an empty variable is none.

    Raises:
        ValueError: key or secret are neither given nor in the environment, or `ORIGINAL_ENVIRONMENT` names none.
    """
    options = given.copy()
    for name in ("api_key", "api_secret"):
        if name not in options:
            variable = f"ORIGINAL_{name.upper()}"
            if not (value := environ.get(variable)):
                raise ValueError(f"{variable}: expected a value in the environment, got none; set it or pass {name}=")
            options[name] = value
    if "base_url" not in options and "environment" not in options:
        # an environment named by argument must not be led elsewhere by a variable that was left behind
        options["base_url"] = environ.get("ORIGINAL_BASE_URL") or None
    if "environment" not in options and (word := environ.get("ORIGINAL_ENVIRONMENT")):
        check_choice(word, "ORIGINAL_ENVIRONMENT", BASE_URLS)
        options["environment"] = word  # type: ignore[typeddict-item]
    return options
