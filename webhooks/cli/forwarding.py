"""Hand deliveries on to another service: body and signature unchanged, at least once, redirects not followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from original_async.signature import SIGNATURE_HEADER
from rewards_core.secrets import shielded
from rewards_core.validation import check_base_url
from webhooks.errors import NotTaken
from webhooks.store.outcomes import CONFLICT_EVENT

if TYPE_CHECKING:
    from rewards_core.operations import Event


class ForwardFailed(NotTaken):
    """The other service did not take a delivery; it is sent again later."""


class Forwarder:
    """Post events to a URL; a handler for every event.

    Args:
        session: What to post with; the caller closes it.
        url: Where to; plain http only to this machine, unless `allow_insecure`.
        timeout: Seconds one try may take, below the handlers' own.
        allow_insecure: Whether plain http may leave this machine.

    Raises:
        ValueError: the URL is none, carries credentials, or is plain http to elsewhere.
    """

    @shielded
    def __init__(self, session: aiohttp.ClientSession, url: str, *, timeout: float, allow_insecure: bool = False) -> None:
        self._session = session
        self._url = check_base_url(url, name="--forward-to", allow_insecure=allow_insecure)
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def __call__(self, event: Event) -> None:
        """Post one event.

        Raises:
            ForwardFailed: it was not answered with 2xx.
        """
        if event.name == CONFLICT_EVENT:
            return  # made here, and signed by nobody
        hints = {
            SIGNATURE_HEADER: event.signature,
            "x-webhook-correlation-id": event.correlation_id,
            "x-webhook-attempt": event.attempt,
        }
        headers = {name: value for name, value in hints.items() if value is not None and value.isascii()}
        headers["Content-Type"] = "application/json"
        try:
            async with self._session.post(
                self._url,
                data=event.body,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                raise_for_status=False,
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            raise ForwardFailed(
                f"the service behind --forward-to did not answer ({type(problem).__name__}); it is tried again later"
            ) from None
        if not 200 <= status < 300:
            raise ForwardFailed(f"the service behind --forward-to answered HTTP {status}, not 2xx; it is tried again later")
