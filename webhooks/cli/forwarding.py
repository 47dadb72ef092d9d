"""Hand deliveries on to another service: body and signature unchanged, at least once, redirects not followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from rewards_core.secrets import shielded
from rewards_core.text import one_line
from rewards_core.validation import check_base_url
from webhooks.cli.sending import delivery_headers
from webhooks.errors import RetryLater
from webhooks.store.outcomes import CONFLICT_EVENT

if TYPE_CHECKING:
    from rewards_core.operations import Event


_SHOWN_OF_AN_ANSWER = 200


class ForwardFailed(RetryLater):
    """The other service did not take a delivery; its text says what it answered last."""


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
        self._url = check_base_url(url, name="--forward-to", allow_insecure=allow_insecure, allowed_by="--forward-insecure")
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def __call__(self, event: Event) -> None:
        """Post one event.

        Raises:
            ForwardFailed: it was not answered with 2xx.
        """
        if event.name == CONFLICT_EVENT and event.signature is None:
            return  # made here, and signed by nobody
        try:
            async with self._session.post(
                self._url,
                data=event.body,
                headers=delivery_headers(event, event.signature),
                timeout=self._timeout,
                allow_redirects=False,
                raise_for_status=False,
            ) as answer:
                status, said = answer.status, b"" if answer.ok else await answer.content.read(_SHOWN_OF_AN_ANSWER)
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            raise ForwardFailed(
                f"could not hand it on: the service behind --forward-to did not answer ({type(problem).__name__})"
            ) from None
        if not 200 <= status < 300:
            words = one_line(said.decode("utf-8", "replace"), _SHOWN_OF_AN_ANSWER)
            told = f", saying: {words}" if words else ""
            raise ForwardFailed(f"could not hand it on: the service behind --forward-to answered HTTP {status}, not 2xx{told}")
