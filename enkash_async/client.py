"""The client of EnKash's five coin endpoints."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, Unpack

from enkash_async.breakers import BreakerStore, MemoryBreakerStore
from enkash_async.credentials import BearerAuthorizer, PasswordCredentials, ProvidedTokens, TokenProvider
from enkash_async.encryption import BodyCipher
from enkash_async.envelope import Envelope, read_balance, read_event, read_refusal, read_success
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
from enkash_async.tokens import PasswordTokens, TokenEndpoint
from rewards_core.errors import RequestRejected, UnexpectedResponse
from rewards_core.http.messages import Answer, Effect, Refusal, Request
from rewards_core.http.refusals import affirms_existence
from rewards_core.http.transport import Transport
from rewards_core.json import dumps
from rewards_core.secrets import shielded
from rewards_core.validation import (
    check_base_url,
    check_callable,
    check_flag,
    check_id,
    check_key,
    check_methods,
    check_name,
    check_timeout,
)

if TYPE_CHECKING:
    from types import TracebackType

    from rewards_core.backoff import RetryPolicy
    from rewards_core.http.timeouts import Timeouts
    from rewards_core.http.transport import Session
    from rewards_core.rate import Limits

T = TypeVar("T")

VENDOR = "EnKash"
_COINS = ("api", "v0", "enkash-coins")

_knows_event = partial(affirms_existence, about=("event", "config"))
_knows_request_id = partial(affirms_existence, about=("request id", "requestid", "allocation", "transaction", "coins"))
_ASK_FOR_ID = "EnKash lists no events, so ask EnKash whether there is one of that name, and for its id, before creating another"
_READ_AGAIN = "read the event to see how it stands"


class EnkashClient:
    """Grant coins and read balances at EnKash, safely for many tasks at once.

    The endpoints are those of https://docs.enkash.com/api-9796915 to -9796918. EnKash publishes no host for them: ask for both.

    Args:
        coins_base_url: Where the coin endpoints are, such as `"https://coins.example.com"`.
        auth_base_url: Where `/oauth/token` is; not needed with a `TokenProvider`.
        credentials: What EnKash issued, or a `TokenProvider` that brings access tokens from elsewhere.
        company_id: The company of events and users; the client id if not given.
        repeat_allocations: Whether an allocation without an answer is sent again under its request id. What EnKash does with a
            repeated request id is not documented: switch this on only once you know that it does not pay twice.
        session: A session to borrow; never closed here. One is made and owned if not given.
        timeouts: Seconds per call and attempt.
        retry: How often a call is tried.
        limits: Calls under way at once and per second.
        observers: Objects with any of `on_start`, `on_retry`, `on_end`.
        token_lifetime: Seconds to use a token for, above 0; by default what EnKash says, at most 300, less 45.
        breaker_store: Remembers refused token requests, so that nobody locks the account; in memory if not given, which a
            restart forgets. Give a `FileBreakerStore` where processes are restarted or share an account.
        encryption: Whether bodies are encrypted, which needs the extra `encryption`; a `BodyCipher` beside a `TokenProvider`.
        extra_headers: Sent with every coin request, such as a `Cookie`.
        allow_insecure: Whether plain http may be used outside loopback.
        clock: Returns the seconds since the epoch, for people who look at what the breaker store keeps.
        random: Returns a number from 0 to 1, which spreads repeated requests.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument cannot be used.
        ImportError: encryption was asked for without its extra.
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
        self._cipher = _cipher(encryption, credentials)
        extra = check_extra_headers({} if extra_headers is None else extra_headers)
        check_callable(clock, "clock")
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
                store=_store(breaker_store),
                secrets=credentials.secrets,
                lifetime=lifetime,
                clock=clock,
            )
            self._authorizer = BearerAuthorizer(self._tokens, extra_headers=extra, secrets=credentials.secrets)
        else:
            check_methods(credentials, "credentials", "PasswordCredentials or a TokenProvider", TokenProvider)
            self._authorizer = BearerAuthorizer(ProvidedTokens(credentials), extra_headers=extra, secrets=tuple)
        self._coins = Transport(
            base_url=self._coins_base_url, authorizer=self._authorizer, refusal=self._refusal, limits=limits, **shared
        )
        self._allocate_url = self._coins.url(*_COINS, "allocate-coin")

    @classmethod
    @shielded
    def from_env(cls, **arguments: Unpack[ClientOptions]) -> Self:
        """Make a client from the environment; an explicit argument wins.

        Reads `ENKASH_COINS_BASE_URL`, `ENKASH_AUTH_BASE_URL`, `ENKASH_CLIENT_ID`, `ENKASH_CLIENT_SECRET`, `ENKASH_USERNAME`,
        `ENKASH_PASSWORD`, `ENKASH_COMPANY_ID`, or `ENKASH_ACCESS_TOKEN` instead of the four credentials.

        Args:
            arguments: Those of the constructor.

        Raises:
            ValueError: a variable is missing, which the message names, or holds what it cannot hold.
        """
        return cls(**settings_from_env(arguments))

    def __repr__(self) -> str:
        return f"<EnkashClient at {self._coins_base_url}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("An EnkashClient cannot be copied or pickled: it holds connections and secrets. Make another one.")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close what the client owns; a second time does nothing.

        Raises:
            ClientClosed: it was used in another event loop.
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
        """Configure how many coins an event is worth (https://docs.enkash.com/api-9796915).

        Never repeated once it may have arrived: EnKash has no key for it. Keep the id of the result: no list recovers it.

        Args:
            event: Its name, such as `"MEAL_CARD_PAYMENT"`.
            amount: Coins per allocation, 0 or more.
            configuration: `default` or `custom`.
            company_id: The company it belongs to; the client's if not given.
            timeout: Seconds for this call, above 0; those of the client's `timeouts` if not given.

        Raises:
            TypeError: an argument has a wrong type; nothing was sent.
            ValueError: an argument cannot be what it should be; nothing was sent.
            RequestRejected: EnKash refused; this call created nothing.
            OutcomeUnknown: the event may have been created, or EnKash says that there is one already. `request` is a
                `CoinEventRequest`.
            VendorError: the call ended otherwise; this call created nothing.
            ConfigurationError: the borrowed session contradicts the client, such as by its own `auth`; nothing was sent.
        """
        asked = CoinEventRequest(
            configuration=check_configuration(configuration),
            company_id=self._company(company_id),
            event=check_name(event, "event"),
            amount=check_coins(amount),
        )
        url, body = self._coins.url(*_COINS, "create-coins-config"), _fields(asked)
        return await self._send(
            "create_event", "POST", url, Effect.BARE, self._event, timeout, asked, body, _knows_event, advice=_ASK_FOR_ID
        )

    async def get_event(self, coin_config_id: str, *, timeout: float | None = None) -> CoinEvent:
        """Read one event (https://docs.enkash.com/api-9796914).

        Args:
            coin_config_id: The id `create_event` returned.
            timeout: Seconds for this call, above 0; those of the client's `timeouts` if not given.

        Raises:
            TypeError: an argument has a wrong type; nothing was sent.
            ValueError: an argument cannot be what it should be; nothing was sent.
            VendorError: EnKash refused or could not be asked.
            ConfigurationError: the borrowed session contradicts the client, such as by its own `auth`; nothing was sent.
        """
        url = self._coins.url(*_COINS, check_id(coin_config_id, "coin_config_id"))
        return await self._coins.get("get_event", url, self._event, self._coins.deadline(timeout))

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
        """Change what is given and leave the rest (https://docs.enkash.com/api-9796916); later allocations go by it.

        Args:
            coin_config_id: The id `create_event` returned.
            amount: Coins per allocation, 0 or more.
            configuration: `default` or `custom`.
            event: Its name.
            company_id: The company it belongs to.
            timeout: Seconds for this call, above 0; those of the client's `timeouts` if not given.

        Returns:
            The event; EnKash leaves its company out.

        Raises:
            TypeError: an argument has a wrong type; nothing was sent.
            ValueError: an argument cannot be what it should be, or none was given; nothing was sent.
            RequestRejected: EnKash refused; this call changed nothing.
            OutcomeUnknown: the event may have been changed; `request` is a `CoinEventRequest`.
            VendorError: the call ended otherwise; this call changed nothing.
            ConfigurationError: the borrowed session contradicts the client, such as by its own `auth`; nothing was sent.
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
            raise ValueError("update_event: there is nothing to change. Give amount, configuration, event or company_id.")
        return await self._send("update_event", "PATCH", url, Effect.KEYED, self._event, timeout, asked, body, advice=_READ_AGAIN)

    async def allocate_coins(
        self, *, event: str, user_id: str, request_id: str, company_id: str | None = None, timeout: float | None = None
    ) -> CoinAllocation:
        """Give a user the coins the event is worth at this moment (https://docs.enkash.com/api-9796917).

        Args:
            event: The name of a configured event.
            user_id: The receiving EnKash user, such as `"EKQZVMQK"`.
            request_id: The caller's id of this allocation: make one per grant, once, and keep it before the call.
            company_id: The company of the user; the client's if not given.
            timeout: Seconds for this call, above 0; those of the client's `timeouts` if not given.

        Raises:
            TypeError: an argument has a wrong type; nothing was sent.
            ValueError: an argument cannot be what it should be; nothing was sent.
            RequestRejected: EnKash refused; this call gave no coins.
            OutcomeUnknown: coins may have been given, by this call or, where EnKash says that it already knows the request id, by
                an earlier one. EnKash has no look-up: settle it by the user's balance or with EnKash. `request` is a
                `CoinAllocationRequest`.
            VendorError: the call ended otherwise; this call gave no coins.
            ConfigurationError: the borrowed session contradicts the client, such as by its own `auth`; nothing was sent.
        """
        asked = CoinAllocationRequest(
            company_id=self._company(company_id),
            event=check_name(event, "event"),
            user_id=check_id(user_id, "user_id"),
            request_id=check_key(request_id, "request_id"),
        )
        body = {"companyId": asked.company_id, "event": asked.event, "requestId": asked.request_id, "userId": asked.user_id}
        done = await self._send(
            "allocate_coins",
            "POST",
            self._allocate_url,
            self._allocation_effect,
            self._success,
            timeout,
            asked,
            body,
            _knows_request_id,
            key=asked.request_id,
            advice=f"EnKash has no look-up, so compare the user's balance or ask EnKash about {asked.request_id!r} first",
        )
        # code 0 settles it: the words beside it are for people, and no reason to call the outcome unknown
        return CoinAllocation(
            event=asked.event,
            user_id=asked.user_id,
            request_id=asked.request_id,
            company_id=asked.company_id,
            message=done.payload if isinstance(done.payload, str) else done.message,
            raw=done.raw,
        )

    async def get_balance(self, user_id: str, *, timeout: float | None = None) -> int:
        """Return how many coins a user has.

        Args:
            user_id: The EnKash user, such as `"EK6CYE6K"`.
            timeout: Seconds for this call, above 0; those of the client's `timeouts` if not given.

        Raises:
            TypeError: an argument has a wrong type; nothing was sent.
            ValueError: an argument cannot be what it should be; nothing was sent.
            VendorError: EnKash refused or could not be asked.
            ConfigurationError: the borrowed session contradicts the client, such as by its own `auth`; nothing was sent.
        """
        url = self._coins.url("api", "v0", "coins", "balance", query={"userId": check_id(user_id, "user_id")})
        return await self._coins.get("get_balance", url, self._balance, self._coins.deadline(timeout))

    def _send(
        self,
        operation: str,
        method: str,
        url: Any,
        effect: Effect,
        read: Callable[[Answer], T],
        timeout: float | None,
        asked: CoinEventRequest | CoinAllocationRequest,
        body: Mapping[str, object],
        says_known: Callable[[RequestRejected], bool] | None = None,
        *,
        key: str | None = None,
        advice: str,
    ) -> Coroutine[Any, Any, T]:
        plain = dumps(body)
        return self._coins.call(
            Request(
                operation=operation,
                method=method,
                url=url,
                effect=effect,
                read=read,
                body=plain if self._cipher is None else self._cipher.encrypt(plain),
                key=key,
                asked=asked,
                says_known=says_known,
                advice=advice,
                deadline=self._coins.deadline(timeout),
            )
        )

    def _company(self, company_id: str | None) -> str:
        if company_id is not None:
            return check_id(company_id, "company_id")
        if self._company_id is None:
            raise ValueError("company_id: it is missing, and an access token names no company. Give it here or to EnkashClient.")
        return self._company_id

    def _success(self, answer: Answer) -> Envelope:
        if self._cipher is not None:
            answer = answer._replace(body=self._cipher.decrypt(answer.body))
        return read_success(answer, self._authorizer.secrets)

    def _event(self, answer: Answer) -> CoinEvent:
        return read_event(self._success(answer))

    def _balance(self, answer: Answer) -> int:
        return read_balance(self._success(answer))

    def _refusal(self, answer: Answer) -> Refusal:
        if self._cipher is not None:
            with suppress(UnexpectedResponse):  # what cannot be read says nothing
                answer = answer._replace(body=self._cipher.decrypt(answer.body))
        return read_refusal(answer)


def _fields(asked: CoinEventRequest) -> dict[str, object]:
    """Return the body that asks for it; what is left out stays as it is."""
    fields = {
        "configuration": asked.configuration and asked.configuration.value.upper(),
        "companyId": asked.company_id,
        "event": asked.event,
        "amount": asked.amount,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _store(store: BreakerStore | None) -> BreakerStore:
    if store is None:
        return MemoryBreakerStore()
    return check_methods(store, "breaker_store", "a FileBreakerStore or another BreakerStore", BreakerStore)


def _cipher(encryption: bool | BodyCipher, credentials: PasswordCredentials | TokenProvider) -> BodyCipher | None:
    if isinstance(encryption, BodyCipher):
        return encryption
    if not check_flag(encryption, "encryption"):
        return None
    if isinstance(credentials, PasswordCredentials):
        return BodyCipher(credentials.client_secret)
    raise ValueError("encryption: a TokenProvider brings no client secret. Give BodyCipher(client_secret) instead of True.")
