"""Forward deliveries to another service: body and signature unchanged, at least once, without following redirects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from rewards_core.base_urls import check_base_url
from rewards_core.secrets import shielded
from rewards_core.text import one_line
from webhooks.cli.sending import delivery_headers
from webhooks.errors import RetryLater
from webhooks.store.outcomes import CONFLICT_EVENT

if TYPE_CHECKING:
    from rewards_core.operations import Event


_MAX_SHOWN = 200


class ForwardFailed(RetryLater):
    """The other service did not accept a delivery; the text holds its last answer."""


class Forwarder:
    """Post events to a URL; a handler for every event.

    Args:
        session: The HTTP session; the caller closes it.
        url: The URL.
        timeout: Seconds per attempt, below the handlers' own timeout.
        allow_insecure: Whether to allow plain http to another machine.

    Raises:
        ValueError: the URL is invalid, contains credentials, or is plain http to another machine.
    """

    @shielded
    def __init__(self, session: aiohttp.ClientSession, url: str, *, timeout: float, allow_insecure: bool = False) -> None:
        self._session = session
        self._url = check_base_url(url, name="--forward-to", allow_insecure=allow_insecure, allowed_by="--forward-insecure")
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def __call__(self, event: Event) -> None:
        """Post one event; raises `ForwardFailed` unless the answer is 2xx."""
        if event.name == CONFLICT_EVENT and event.signature is None:
            return  # made by this store, without a signature
        try:
            async with self._session.post(
                self._url,
                data=event.body,
                headers=delivery_headers(event, event.signature),
                timeout=self._timeout,
                allow_redirects=False,
                raise_for_status=False,
            ) as answer:
                status, text = answer.status, b"" if answer.ok else await answer.content.read(_MAX_SHOWN)
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            raise ForwardFailed(
                f"could not forward the delivery: the service behind --forward-to did not answer ({type(problem).__name__})"
            ) from None
        if not 200 <= status < 300:
            shown = one_line(text.decode("utf-8", "replace"), _MAX_SHOWN)
            detail = f": {shown}" if shown else ""
            raise ForwardFailed(
                f"could not forward the delivery: the service behind --forward-to answered HTTP {status}, not 2xx{detail}"
            )
