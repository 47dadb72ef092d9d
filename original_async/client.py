"""The client of Original, with the method names of the vendor's own SDK."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack

from original_async.auth import TokenAuthorizer
from original_async.calls.operations import OperationCalls
from original_async.calls.read_paths import READ_PATHS, AllocationReader
from original_async.calls.reading import Reader
from original_async.calls.users import UserCalls
from original_async.errors import read_refusal
from original_async.settings import find_base_url, options_from
from rewards_core.http.transport import Transport
from rewards_core.operations import DEFAULT_SCOPE
from rewards_core.secrets import shielded
from rewards_core.validation import check_choice, check_id

if TYPE_CHECKING:
    from types import TracebackType

    from original_async.settings import AmountAs, ClientOptions, Environment, ReadPath
    from rewards_core.backoff import RetryPolicy
    from rewards_core.http.timeouts import Timeouts
    from rewards_core.http.transport import Session
    from rewards_core.rate import Limits


class OriginalClient(OperationCalls, UserCalls):
    """Original's API: users, collections, assets, transfers, burns, deposits and rewards.

    The methods have the names of the vendor's own SDK. Arguments are keyword-only, but for the first one of a read or an edit.

    One client serves any number of tasks in one event loop. Use it as `async with OriginalClient(...) as original:`, or call
    `aclose()` when done.

    Every call is retried within its timeout where that is safe, and raises a `VendorError` if it fails: `RequestRejected` (or its
    subclass `NotFound`, `Unauthorized`, `Forbidden`, `RateLimited` or `ValidationFailed`), `ConnectFailed`, `ServerFailed`,
    `DeadlineExceeded`, `UnexpectedResponse` or `ClientClosed`. A write whose outcome is not known raises `OutcomeUnknown`.
    Invalid arguments raise `ValueError` or `TypeError`, and a borrowed session that cannot be used `ConfigurationError`; nothing
    was sent.

    Args:
        api_key: The app's API key.
        api_secret: The API secret of that key. It signs tokens and is never sent.
        environment: `"production"` or `"development"`, a property of the app.
        base_url: An address that replaces the environment's, `/v1` included.
        session: An aiohttp session to borrow, never closed here; by default the client owns one.
        timeouts: Seconds per call and per attempt; by default 30 in total, 5 to connect and 10 to read.
        retry: How often a call is attempted and how long it pauses in between; by default 5 attempts.
        limits: Concurrent connections and calls per second; by default 100 connections and no rate.
        observers: Objects with any of the methods `on_start`, `on_retry` and `on_end`, which are called with a `CallStarted`,
            a `CallRetried` and a `CallEnded`.
        read_path: The path of allocations, `"allocation"` or `"allocate"`: the documents name both. `"auto"` finds out.
        amount_as: Whether amounts are sent as `"string"`, as documented, or as `"number"` with the same digits.
        token_lifetime: Seconds for which a token that this client makes is valid, 60 to 315,360,000 (ten years); None for tokens
            that do not expire.
        scope: The name under which the app's operations are stored, where several apps share a store.
        allow_insecure: Whether `base_url` may be plain http to a host other than this machine.
        clock: Returns the seconds since the epoch, for the expiry of tokens, and where the vendor's answers have no Date
            header, to tell a transfer from an older one.
        random: Returns a number from 0 to 1, for the jitter of retries.

    Raises:
        ValueError: an argument is invalid; the error says what to give.
        TypeError: an argument has the wrong type.
    """

    @shielded
    def __init__(
        self,
        api_key: str,
        api_secret: str,
        *,
        environment: Environment = "production",
        base_url: str | None = None,
        session: Session | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        observers: Sequence[Any] = (),
        read_path: ReadPath = "auto",
        amount_as: AmountAs = "string",
        token_lifetime: float | None = 3600.0,
        scope: str = DEFAULT_SCOPE,
        allow_insecure: bool = False,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        check_choice(read_path, "read_path", ("auto", *READ_PATHS))
        check_choice(amount_as, "amount_as", ("string", "number"))
        self._base_url = find_base_url(environment, base_url, allow_insecure=allow_insecure)
        self._scope = check_id(scope, "scope")
        self._amount_as_number = amount_as == "number"
        self._authorizer = TokenAuthorizer(api_key, api_secret, lifetime=token_lifetime, clock=clock)
        self._transport = Transport(
            vendor="Original",
            base_url=self._base_url,
            authorizer=self._authorizer,
            refusal=read_refusal,
            session=session,
            timeouts=timeouts,
            retry=retry,
            limits=limits,
            observers=observers,
            random=random,
        )
        self._reader = Reader(self._transport, self._scope)
        self._allocations = AllocationReader(self._reader, None if read_path == "auto" else read_path)
        self._urls = {}
        self._clock = clock

    @classmethod
    @shielded
    def from_env(cls, **arguments: Unpack[ClientOptions]) -> Self:
        """Create a client from environment variables.

        Reads `ORIGINAL_API_KEY`, `ORIGINAL_API_SECRET`, `ORIGINAL_BASE_URL` and `ORIGINAL_ENVIRONMENT`; an empty variable counts
        as missing.

        Args:
            arguments: Arguments of the client; they override the variables.

        Raises:
            ValueError: the key or the secret is missing, or a value is invalid; the error names the variable.
        """
        return cls(**options_from(os.environ, arguments))

    @property
    def scope(self) -> str:
        """The scope of this client's operations."""
        return self._scope

    async def aclose(self) -> None:
        """Close the connections that this client owns; a second call does nothing.

        Raises:
            ClientClosed: the connections were opened in another event loop; close the client there.
        """
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<OriginalClient at {self._base_url}, scope {self._scope}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("An OriginalClient cannot be copied or pickled: it holds connections and a secret. Create another one.")
