"""What the command line reads from the environment, and what to set where something is missing or wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from enkash_async import settings as enkash
from original_async import OriginalWebhooks
from original_async.settings import BASE_URLS
from rewards_core.validation import check_base_url, is_id
from webhooks.cli.sources import APP_VARIABLE, KEYS_VARIABLE, SourceSpec, read_keys

ORIGINAL_KEYS = ("ORIGINAL_API_KEY", "ORIGINAL_API_SECRET")
_ENVIRONMENT = "ORIGINAL_ENVIRONMENT"
_BASE_URL = "ORIGINAL_BASE_URL"
_VARIABLES = frozenset({*ORIGINAL_KEYS, *enkash.CREDENTIALS, enkash.ACCESS_TOKEN, enkash.COMPANY_ID})


def check_original(environ: Mapping[str, str]) -> None:
    """Refuse an environment from which no client of Original can be made.

    Raises:
        ValueError: a variable is missing or wrong; the text says what to set, and shows no value.
    """
    if missing := _missing(ORIGINAL_KEYS, environ):
        raise ValueError(f"Set {_listed(missing)}.")
    if environ.get(_ENVIRONMENT) and environ[_ENVIRONMENT] not in BASE_URLS:
        raise ValueError(f"Set {_ENVIRONMENT} to {' or '.join(BASE_URLS)}, or leave it unset for production.")
    _check_url(_BASE_URL, environ)


def check_enkash(environ: Mapping[str, str]) -> None:
    """Refuse an environment from which no client of EnKash can be made.

    Raises:
        ValueError: a variable is missing or wrong; the text says what to set, and shows no value.
    """
    missing = _missing(enkash.CREDENTIALS, environ)
    has_token = bool(environ.get(enkash.ACCESS_TOKEN))
    if has_token and len(missing) < len(enkash.CREDENTIALS):
        given = [name for name in enkash.CREDENTIALS if name not in missing]
        raise ValueError(f"{enkash.ACCESS_TOKEN} replaces the four credentials: unset it, or unset {_listed(given)}.")
    urls = [enkash.COINS_BASE_URL] if has_token else [enkash.COINS_BASE_URL, enkash.AUTH_BASE_URL]
    wanted = [*([] if has_token else missing), *_missing(urls, environ)]
    if wanted:
        instead = f" Or set {enkash.ACCESS_TOKEN} instead of the four credentials." if wanted[:4] == [*enkash.CREDENTIALS] else ""
        hosts = " EnKash gives each company its base URLs." if _missing(urls, environ) else ""
        raise ValueError(f"Set {_listed(wanted)}.{instead}{hosts}")
    for name in urls:
        _check_url(name, environ)
    if environ.get(enkash.COMPANY_ID) and not is_id(environ[enkash.COMPANY_ID]):
        raise ValueError(f"{enkash.COMPANY_ID} is not a company id: copy it again, without spaces.")


def webhook_source(keys_file: Path | None, environ: Mapping[str, str], *, scope: str) -> OriginalWebhooks:
    """Return what verifies Original's webhooks, with the keys from a file or from the environment.

    Args:
        keys_file: Where the keys are; None reads `ORIGINAL_WEBHOOK_KEYS`.
        environ: The variables.
        scope: That of the client.

    Raises:
        ValueError: the keys or the app's uid are missing or wrong; the text says what to set, and shows no value.
    """
    app_uid = environ.get(APP_VARIABLE) or None
    if app_uid is not None and not is_id(app_uid):
        raise ValueError(f"{APP_VARIABLE} is not the uid of an app: copy it again, without spaces.")
    if keys_file is None and not environ.get(KEYS_VARIABLE, "").strip():
        raise ValueError(
            f"Set {KEYS_VARIABLE} to ID:SECRET, as on the Webhooks page of Original's console, or name a file with --keys-file."
        )
    if keys_file is not None and not keys_file.exists():
        raise ValueError(f"--keys-file: there is no file {keys_file}.")
    try:
        return OriginalWebhooks(read_keys(SourceSpec(keys_file=keys_file), environ), scope=scope, app_uid=app_uid)
    except ValueError:
        where = KEYS_VARIABLE if keys_file is None else f"--keys-file: {keys_file}"
        raise ValueError(
            f"{where} holds no webhook keys that can be read: write ID:SECRET, several separated by commas or spaces."
        ) from None


@contextmanager
def variables_named(vendor: str) -> Iterator[None]:
    """Let an error in making a client name the variable that was read, and show nothing of it.

    Raises:
        ValueError: in place of the client's own, which speaks of arguments.
    """
    try:
        yield
    except ValueError as problem:
        variable = f"{vendor.upper()}_{str(problem).partition(':')[0].upper()}"
        if variable not in _VARIABLES:
            raise
        raise ValueError(
            f"{variable} cannot be used: copy it again, and look for spaces, line breaks and missing characters."
        ) from None


def _check_url(name: str, environ: Mapping[str, str]) -> None:
    url = environ.get(name)
    if not url:
        return
    try:
        check_base_url(url)
    except ValueError:
        if "@" in url:
            told = "holds a user name or password. Remove them: credentials have variables of their own."
        elif url.lower().startswith("http://"):
            told = "begins with http://, which would show the credentials to the network. Use https://."
        else:
            told = "is not a base URL. Set it to one such as https://api.example.com/v1."
        raise ValueError(f"{name} {told}") from None


def _missing(names: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    return [name for name in names if not environ.get(name)]


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
