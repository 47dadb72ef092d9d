"""Environment variables: an error about one names it, says what to set, and shows nothing of its value."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rewards_core.secrets import shielded
from rewards_core.validation import check_base_url


def listed(names: Collection[str]) -> str:
    """Return names as a person lists them: `A`, `A and B`, `A, B and C`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


@shielded
def url_from(environ: Mapping[str, str], name: str, *, allow_insecure: bool = False) -> str | None:
    """Return the base URL that a variable holds, None where it is missing or empty.

    Args:
        environ: The variables.
        name: The variable.
        allow_insecure: Whether it may be plain http outside loopback.

    Raises:
        ValueError: it holds none that credentials may be sent to.
    """
    url = environ.get(name)
    if not url:
        return None
    try:
        return check_base_url(url, name=name, allow_insecure=allow_insecure)
    except ValueError:
        if "@" in url:
            why = "holds a user name or password. Remove them: credentials have variables of their own."
        elif url.lower().startswith("http://"):
            why = "begins with http://, which would show the credentials to the network. Use https://."
        else:
            why = "is not a base URL. Set it to one such as https://api.example.com/v1."
    raise ValueError(f"{name} {why}")
