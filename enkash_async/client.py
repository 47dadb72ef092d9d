"""The client of EnKash's coins."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack

from enkash_async.auth import BearerAuthorizer, ProvidedTokens, TokenEndpoint
from enkash_async.breakers import BreakerStore, MemoryBreakerStore
from enkash_async.coins import CoinEndpoints
from enkash_async.credentials import PasswordCredentials, TokenProvider
from enkash_async.encryption import BodyCipher
from enkash_async.models import (
    CoinAllocation,
    CoinAllocationRequest,
    CoinConfiguration,
    CoinEvent,
    CoinEventRequest,
    check_coins,
    check_configuration,
)
from enkash_async.settings import ClientOptions, check_extra_headers, settings_from_env
from enkash_async.tokens import PasswordTokens
from rewards_core.base_urls import check_base_url
from rewards_core.http.messages import Effect
from rewards_core.http.refusals import affirms_existence
from rewards_core.secrets import shielded
from rewards_core.validation import check_callable, check_flag, check_id, check_key, check_methods, check_name, check_timeout

if TYPE_CHECKING:
    from types import TracebackType

    from rewards_core.backoff import RetryPolicy
    from rewards_core.http.timeouts import Timeouts
    from rewards_core.http.transport import Session
    from rewards_core.rate import Limits

VENDOR = "EnKash"
_COINS = ("api", "v0", "enkash-coins")

_knows_event = partial(affirms_existence, about=("event", "config"))
_knows_request_id = partial(affirms_existence, about=("request id", "requestid", "allocation", "transaction", "coins"))
_CREATE_ADVICE = (
    "EnKash cannot list events: ask EnKash whether an event of that name exists, and for its id, before creating another"
)
_UPDATE_ADVICE = "read the event to see whether it was changed"


class EnkashClient:
    """Configure events, allocate coins and read balances at EnKash.

    One client serves any number of tasks in one event loop. Use it as `async with EnkashClient(...) as enkash:`, or call
    `aclose()` when done. The endpoints are those of https://docs.enkash.com/api-9796914 to -9796918. EnKash publishes no host:
    ask for the two base URLs.

    Every call gets its access token itself. A call that fails raises a `VendorError`: `RequestRejected` (or its subclass
    `NotFound`, `Unauthorized`, `Forbidden`, `RateLimited` or `ValidationFailed`), `ConnectFailed`, `ServerFailed`,
    `DeadlineExceeded`, `UnexpectedResponse`, `ClientClosed`, or, without an access token, `CredentialsRejected` or
    `TokenUnavailable`. A write whose outcome is not known raises `OutcomeUnknown`. Invalid arguments raise `ValueError` or
    `TypeError`, and a borrowed session that cannot be used `ConfigurationError`; nothing was sent.

    Args:
        coins_base_url: The address of the coin endpoints, such as `"https://coins.example.com"`.
        auth_base_url: The address of `/oauth/token`; not needed with a `TokenProvider`.
        credentials: The credentials that EnKash issued, or a `TokenProvider` of access tokens from elsewhere.
        company_id: The company of events and users; by default the client id.
        repeat_allocations: Whether an unanswered allocation is sent again with its request id. How EnKash treats a repeated
            request id is not documented: set this only if you know that it does not pay twice. `run_payouts` follows it.
        session: An aiohttp session to borrow, never closed here; by default the client owns one.
        timeouts: Seconds per call and per attempt; by default 30 in total, 5 to connect and 10 to read.
        retry: How often a call is attempted and how long it pauses in between; by default 5 attempts.
        limits: Concurrent connections and calls per second; by default 100 connections and no rate.
        observers: Objects with any of the methods `on_start`, `on_retry` and `on_end`, which are called with a `CallStarted`,
            a `CallRetried` and a `CallEnded`.
        token_lifetime: Seconds for which to use a token, above 0; by default those that EnKash states, at most 300, less 45. At
            `OriginalClient` it is another thing: how long the tokens are valid that the client makes.
        breaker_store: Remembers rejected token requests, so that no client locks the account. By default a `MemoryBreakerStore`,
            which a restart empties; use a `FileBreakerStore` if processes restart or share an account.
        encryption: Whether to encrypt bodies, which needs the extra `encryption`; with a `TokenProvider`, a `BodyCipher`.
        extra_headers: Headers to add to every coin request, such as a `Cookie`.
        allow_insecure: Whether plain http to a host other than this machine is allowed.
        clock: Returns the seconds since the epoch, for the times in the breaker store.
        random: Returns a number from 0 to 1, for the jitter of retries.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is invalid; the error says what to give.
        ImportError: encryption needs the extra `encryption`.
    """

    @shielded
    def __init__(
        self,
        *,
        coins_base_url: str,
        auth_base_url: str | None = None,
        credentials: PasswordCredentials | TokenProvider,
        company_id: str | None = None,
        repeat_allocations: bool = False,
        session: Session | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        observers: Sequence[Any] = (),
        token_lifetime: float | None = None,
        breaker_store: BreakerStore | None = None,
        encryption: bool | BodyCipher = False,
        extra_headers: Mapping[str, str] | None = None,
        allow_insecure: bool = False,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._coins_base_url = check_base_url(coins_base_url, name="coins_base_url", allow_insecure=allow_insecure)
        self._company_id = company_id if company_id is None else check_id(company_id, "company_id")
        self._allocation_effect = Effect.KEYED if check_flag(repeat_allocations, "repeat_allocations") else Effect.BARE
        cipher = _cipher(encryption, credentials)
        extra = check_extra_headers({} if extra_headers is None else extra_headers)
        check_callable(clock, "clock")
        if breaker_store is not None:
            check_methods(breaker_store, "breaker_store", "a FileBreakerStore or another BreakerStore", BreakerStore)
        lifetime = None if token_lifetime is None else check_timeout(token_lifetime, "token_lifetime")
        self._tokens: PasswordTokens | None = None
        self._auth: TokenEndpoint | None = None
        shared: dict[str, Any] = {
            "vendor": VENDOR,
            "session": session,
            "timeouts": timeouts,
            "retry": retry,
            "observers": observers,
            "random": random,
        }
        if isinstance(credentials, PasswordCredentials):
            address = check_base_url(auth_base_url or "", name="auth_base_url", allow_insecure=allow_insecure)
            self._company_id = self._company_id or check_id(credentials.client_id, "client_id")
            self._auth = TokenEndpoint(credentials, base_url=address, **shared)
            self._tokens = PasswordTokens(
                ask=self._auth.ask,
                account=partial(credentials.account, address),
                store=breaker_store or MemoryBreakerStore(),
                secrets=credentials.secrets,
                lifetime=lifetime,
                clock=clock,
            )
            authorizer = BearerAuthorizer(self._tokens, extra_headers=extra, secrets=credentials.secrets)
        else:
            check_methods(credentials, "credentials", "PasswordCredentials or a TokenProvider", TokenProvider)
            authorizer = BearerAuthorizer(ProvidedTokens(credentials), extra_headers=extra, secrets=tuple)
        self._coins = CoinEndpoints(authorizer, cipher, base_url=self._coins_base_url, limits=limits, **shared)
        self._allocate_url = self._coins.url(*_COINS, "allocate-coin")

    @classmethod
    @shielded
    def from_env(cls, **arguments: Unpack[ClientOptions]) -> Self:
        """Create a client from environment variables.

        Reads `ENKASH_COINS_BASE_URL`, `ENKASH_AUTH_BASE_URL`, `ENKASH_COMPANY_ID`, and either `ENKASH_CLIENT_ID`,
        `ENKASH_CLIENT_SECRET`, `ENKASH_USERNAME` and `ENKASH_PASSWORD` or `ENKASH_ACCESS_TOKEN`. An empty variable counts as
        missing.

        Args:
            arguments: Arguments of the client; they override the variables.

        Raises:
            ValueError: a variable is missing or invalid; the error names it.
        """
        return cls(**settings_from_env(arguments))

    @property
    def repeat_allocations(self) -> bool:
        """Whether an unanswered allocation is sent again with its request id."""
        return self._allocation_effect is Effect.KEYED

    def __repr__(self) -> str:
        return f"<EnkashClient at {self._coins_base_url}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("An EnkashClient cannot be copied or pickled: it holds connections and secrets. Create another one.")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that this client owns; a second call does nothing.

        Raises:
            ClientClosed: the connections were opened in another event loop; close the client there.
        """
        await self._coins.aclose()
        if self._tokens is not None:
            await self._tokens.aclose()
        if self._auth is not None:
            await self._auth.aclose()

    async def create_event(
        self,
        *,
        event: str,
        amount: int,
        configuration: CoinConfiguration | str = CoinConfiguration.DEFAULT,
        company_id: str | None = None,
        timeout: float | None = None,
    ) -> CoinEvent:
        """Create an event and set how many coins it is worth; see https://docs.enkash.com/api-9796915.

        EnKash has no idempotency key for events, so the call is never sent twice. Store the id of the event: it cannot be looked
            up.

        Args:
            event: The name, such as `"MEAL_CARD_PAYMENT"`.
            amount: Coins per allocation, from 0 to 2**63 - 1.
            configuration: `default` or `custom`.
            company_id: The company of the event; by default the client's.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            RequestRejected: EnKash rejected the request; this call created nothing.
            OutcomeUnknown: the event may have been created, or EnKash says that it already exists. `request` is a
                `CoinEventRequest`.
            VendorError: the call failed otherwise; it created nothing.
            ValueError, TypeError, ConfigurationError: nothing was sent.
        """
        asked = CoinEventRequest(
            configuration=check_configuration(configuration),
            company_id=self._company(company_id),
            event=check_name(event, "event"),
            amount=check_coins(amount),
        )
        url, body = self._coins.url(*_COINS, "create-coins-config"), _fields(asked)
        return await self._coins.send(
            "create_event", "POST", url, Effect.BARE, self._coins.event, timeout, asked, body, _knows_event, advice=_CREATE_ADVICE
        )

    async def get_event(self, coin_config_id: str, *, timeout: float | None = None) -> CoinEvent:
        """Read an event; see https://docs.enkash.com/api-9796914.

        Args:
            coin_config_id: The id that `create_event` returned.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such event.
            VendorError: the call failed.
            ValueError, TypeError, ConfigurationError: nothing was sent.
        """
        url = self._coins.url(*_COINS, check_id(coin_config_id, "coin_config_id"))
        return await self._coins.get("get_event", url, self._coins.event, self._coins.deadline(timeout))

    async def update_event(
        self,
        coin_config_id: str,
        *,
        amount: int | None = None,
        configuration: CoinConfiguration | str | None = None,
        event: str | None = None,
        company_id: str | None = None,
        timeout: float | None = None,
    ) -> CoinEvent:
        """Change the given members of an event, for later allocations; see https://docs.enkash.com/api-9796916.

        Args:
            coin_config_id: The id that `create_event` returned.
            amount: Coins per allocation, from 0 to 2**63 - 1; None to leave them.
            configuration: `default` or `custom`; None to leave it.
            event: The name; None to leave it.
            company_id: The company of the event; None to leave it.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Returns:
            The event, without its company: EnKash omits it.

        Raises:
            RequestRejected: EnKash rejected the request; this call changed nothing.
            OutcomeUnknown: the event may have been changed; read it with `get_event`. `request` is a `CoinEventRequest`.
            VendorError: the call failed otherwise; it changed nothing.
            ValueError, TypeError, ConfigurationError: nothing was sent; also if there is nothing to change.
        """
        coin_config_id = check_id(coin_config_id, "coin_config_id")
        asked = CoinEventRequest(
            coin_config_id=coin_config_id,
            configuration=None if configuration is None else check_configuration(configuration),
            company_id=None if company_id is None else check_id(company_id, "company_id"),
            event=None if event is None else check_name(event, "event"),
            amount=None if amount is None else check_coins(amount),
        )
        url, body = self._coins.url(*_COINS, coin_config_id), _fields(asked)
        if not body:
            raise ValueError("update_event: nothing to change. Give amount, configuration, event or company_id.")
        return await self._coins.send(
            "update_event", "PATCH", url, Effect.KEYED, self._coins.event, timeout, asked, body, advice=_UPDATE_ADVICE
        )

    async def allocate_coins(
        self, *, event: str, user_id: str, request_id: str, company_id: str | None = None, timeout: float | None = None
    ) -> CoinAllocation:
        """Allocate to a user the coins that an event is worth now; see https://docs.enkash.com/api-9796917.

        The call is not sent twice, unless the client has `repeat_allocations=True`. Limit it by `timeout`, not by cancelling it:
        a cancelled call raises `CancelledError`, and only a log line says that it may have been carried out.

        Args:
            event: The name of a configured event.
            user_id: The receiving EnKash user, such as `"EKQZVMQK"`.
            request_id: The caller's id of this allocation. Create it once and store it before the call.
            company_id: The company of the user; by default the client's.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            RequestRejected: EnKash rejected the request; this call allocated no coins.
            OutcomeUnknown: the coins may have been allocated, by this call or, if EnKash says that it knows the request id, by an
                earlier one. EnKash cannot look up an allocation: compare the user's balance, or ask EnKash. `request` is a
                `CoinAllocationRequest`.
            VendorError: the call failed otherwise; it allocated no coins.
            ValueError, TypeError, ConfigurationError: nothing was sent.
        """
        asked = CoinAllocationRequest(
            company_id=self._company(company_id),
            event=check_name(event, "event"),
            user_id=check_id(user_id, "user_id"),
            request_id=check_key(request_id, "request_id"),
        )
        body = {"companyId": asked.company_id, "event": asked.event, "requestId": asked.request_id, "userId": asked.user_id}
        done = await self._coins.send(
            "allocate_coins",
            "POST",
            self._allocate_url,
            self._allocation_effect,
            self._coins.success,
            timeout,
            asked,
            body,
            _knows_request_id,
            key=asked.request_id,
            advice=f"compare the user's balance or ask EnKash about {asked.request_id!r} before allocating again",
        )
        # code 0 is the success: an odd message beside it does not make the outcome unknown
        return CoinAllocation(
            event=asked.event,
            user_id=asked.user_id,
            request_id=asked.request_id,
            company_id=asked.company_id,
            message=done.payload if isinstance(done.payload, str) else done.message,
            raw=done.raw,
        )

    async def get_balance(self, user_id: str, *, timeout: float | None = None) -> int:
        """Read how many coins a user has; see https://docs.enkash.com/apidoc/project-616243/api-9796918.

        Args:
            user_id: The EnKash user, such as `"EK6CYE6K"`.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such user.
            VendorError: the call failed.
            ValueError, TypeError, ConfigurationError: nothing was sent.
        """
        url = self._coins.url("api", "v0", "coins", "balance", query={"userId": check_id(user_id, "user_id")})
        return await self._coins.get("get_balance", url, self._coins.balance, self._coins.deadline(timeout))

    def _company(self, company_id: str | None) -> str:
        if company_id is not None:
            return check_id(company_id, "company_id")
        if self._company_id is None:
            raise ValueError(
                "company_id: missing, and an access token names no company. Give it to this call or to EnkashClient."
            )
        return self._company_id


def _fields(asked: CoinEventRequest) -> dict[str, object]:
    """Return the body of the request, without the members to leave as they are."""
    fields = {
        "configuration": asked.configuration and asked.configuration.value.upper(),
        "companyId": asked.company_id,
        "event": asked.event,
        "amount": asked.amount,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _cipher(encryption: bool | BodyCipher, credentials: PasswordCredentials | TokenProvider) -> BodyCipher | None:
    if isinstance(encryption, BodyCipher):
        return encryption
    if not check_flag(encryption, "encryption"):
        return None
    if isinstance(credentials, PasswordCredentials):
        return BodyCipher(credentials.client_secret)
    raise ValueError("encryption: a TokenProvider has no client secret. Give BodyCipher(client_secret) instead of True.")
