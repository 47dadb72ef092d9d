"""What every family of calls shares: how a write is sent, and looked up if its outcome is not known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from original_async.calls.reading import Reader, read_created
from original_async.calls.reconciling import MAX_LOOKUP_RESERVE, ComparableRequest, Rules, reconcile
from rewards_core.errors import Forbidden, OutcomeUnknown, RateLimited, RequestRejected, Unauthorized
from rewards_core.http.calls import warn_of_cancellation
from rewards_core.http.messages import Effect, Request
from rewards_core.validation import check_callable

if TYPE_CHECKING:
    from yarl import URL

    from original_async.calls.pages import Listing
    from rewards_core.http.messages import Answer
    from rewards_core.http.transport import Transport

M = TypeVar("M", bound=Any)


class Calls:
    """The transport and the scope of one client."""

    _transport: Transport
    _scope: str
    _reader: Reader
    _urls: dict[tuple[str, ...], URL]

    def _fixed_url(self, *path: str) -> URL:
        """Return the URL of a path without ids, which is made once."""
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = self._transport.url(*path)
        return url

    async def _write(
        self,
        rules: Rules,
        key: str,
        body: bytes,
        url: URL,
        *,
        effect: Effect,
        asked: Callable[[], ComparableRequest],
        build: Callable[[dict[str, Any]], M],
        look_up: Callable[[float], Awaitable[Listing[M]]],
        method: str = "POST",
        read: Callable[[Answer], dict[str, Any]] = read_created,
        repeated: bool = False,
        send: bool = True,
        timeout: float | None = None,
    ) -> M:
        """Send a write. If it is refused or its outcome is unknown, look up what the vendor holds under its key.

        Args:
            rules: How it is looked up.
            key: Its key.
            body: The bytes to send.
            url: Where to send it.
            effect: What it means to send it twice.
            asked: Returns what it asks for; not called unless it is looked up.
            build: Makes the model from the vendor's answer.
            look_up: Lists what the vendor holds under the key, until a moment of the loop's time.
            method: The HTTP method.
            read: Reads the answer.
            repeated: Whether an earlier call with the key may have been sent.
            send: Whether it is sent; otherwise it is only looked up.
            timeout: Seconds for the call including the look-up.
        """
        transport = self._transport
        deadline = transport.deadline(timeout)
        seconds = timeout or transport.timeouts.total
        trouble: RequestRejected | OutcomeUnknown
        try:
            if not send:
                raise OutcomeUnknown("an earlier call may have been sent")
            created = await transport.call(
                Request(
                    operation=rules.call,
                    method=method,
                    url=url,
                    effect=effect,
                    read=read,
                    body=body,
                    key=key,
                    advice=rules.advice,
                    deadline=deadline - min(MAX_LOOKUP_RESERVE, seconds / 5),
                )
            )
        except (Unauthorized, Forbidden, RateLimited):
            raise
        except (RequestRejected, OutcomeUnknown) as problem:
            trouble = problem
        else:
            return build(created)
        try:
            return await reconcile(
                rules,
                key,
                asked,
                trouble,
                repeated=repeated,
                look_up=partial(look_up, deadline),
                started=deadline - seconds,
                deadline=deadline,
            )
        except asyncio.CancelledError:
            if repeated or isinstance(trouble, OutcomeUnknown) or rules.says_known(trouble):
                warn_of_cancellation(f"Original {rules.call}", key, rules.advice)
            raise


def check_hook(hook: object, name: str) -> None:
    """Check an optional function."""
    if hook is not None:
        check_callable(hook, name)
