"""Access tokens: fetched once for all who wait, renewed before they end, and never asked for often enough to lock the account.

EnKash locks an account after three refused token requests in a row. So before each request a mark is left in the breaker store,
under the store's lock, and taken away by the answer: a refusal, a lost reply and a crash in between are all there for whoever
comes next, in this process or another.

A redirect, an empty answer or a web page is no answer: it may come from a proxy, a login page or a wrong address, and one of them
taken for a refusal would end all token requests until somebody empties the store.

A request without an answer may have been refused, and if the credentials are wrong, the third in a row locks the account however
late it is made. Credentials that brought a token before are hardly wrong: after two requests without an answer they are tried
once a minute, so that callers suffer no longer than the token endpoint. Credentials that never did are tried once in ten minutes:
whoever else uses the account needs a token every five, and each that EnKash gives begins its count anew.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from attrs import evolve

from enkash_async.breakers import BreakerState, BreakerStore
from enkash_async.envelope import is_foreign, read_refusal, read_token
from enkash_async.errors import CredentialsRejected, TokenUnavailable
from rewards_core.clock import boot_id, loop_time, uptime
from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    ConnectFailed,
    DeadlineExceeded,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    VendorError,
)
from rewards_core.http.calls import Failure, FailureKind
from rewards_core.http.messages import Answer, Effect, Headers, Request
from rewards_core.http.transport import Transport
from rewards_core.secrets import Secret
from rewards_core.text import hide

if TYPE_CHECKING:
    from enkash_async.credentials import AccessToken, PasswordCredentials

logger = logging.getLogger(__name__)

MARGIN = 45.0
"""Seconds before its end from which a token is not used any more."""
REFRESH_AT = 0.75
"""The share of its use after which a token is renewed in the background."""
LEAST_AGE = 5.0
"""Seconds between two background renewals: EnKash may answer with the same token and what is left of its life."""
UNANSWERED_LIMIT = 2
"""Token requests in a row which may be sent without an answer before all wait."""
PAUSE = 60.0
"""Seconds for which everybody then fails, with credentials that have brought a token."""
PAUSE_UNPROVEN = 600.0
"""The same with credentials that never have."""
BEFORE_REPEAT = 1.0
"""Seconds between a token request without an answer and its one repetition."""

_NOT_COUNTED = (RateLimited, ConnectFailed, DeadlineExceeded, ClientClosed, ConfigurationError)
Outcome = Secret | VendorError | ConfigurationError
"""How a fetch ended for those who wait for it: a token, or the error to raise."""


class TokenEndpoint(Transport):
    """Ask for tokens with one set of credentials.

    Args:
        credentials: What EnKash issued.
        settings: Those of the transport.
    """

    def __init__(self, credentials: PasswordCredentials, **settings: Any) -> None:
        super().__init__(authorizer=_BasicAuthorizer(credentials), refusal=read_refusal, **settings)
        self._credentials = credentials

    async def ask(self) -> AccessToken:
        """Send one token request; it is not repeated once it may have arrived.

        Raises:
            OutcomeUnknown: it was not answered, or not by a token endpoint, and may have counted; `status` is what came.
            RequestRejected: it was refused.
            ConnectFailed: it never left.
            RateLimited: EnKash asked to wait for longer than there was time.
            ConfigurationError: the borrowed session cannot send it.
        """
        return await self.call(
            Request(
                operation="token",
                method="POST",
                url=self.url("oauth", "token"),
                effect=Effect.BARE,
                read=lambda answer: read_token(answer, self._credentials.secrets),
                body=self._credentials.form(),
                deadline=self.deadline(),
            )
        )

    async def exchange(self, request: Request[Any], headers: Headers, timeout: float) -> Answer | Failure:
        """Send one attempt; what the token endpoint itself did not answer leaves it unanswered."""
        answer = await super().exchange(request, headers, timeout)
        if isinstance(answer, Answer) and is_foreign(answer):
            return Failure(FailureKind.UNREADABLE, f"HTTP {answer.status}, which is no answer of a token endpoint", answer.status)
        return answer


class _BasicAuthorizer:
    """Authorize token requests by client id and secret, the only pair there is."""

    def __init__(self, credentials: PasswordCredentials) -> None:
        fields = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        self._headers = Headers.of({**fields, "Authorization": credentials.basic()})
        self.secrets = credentials.secrets

    async def headers(self, timeout: float) -> Headers:  # noqa: ARG002 - nothing to wait for
        return self._headers

    async def renew(self, refused: Headers, timeout: float) -> bool:  # noqa: ARG002 - a refused pair is not tried again
        return False


class PasswordTokens:
    """Provide the tokens of one account to all tasks of one client.

    Args:
        ask: Sends one token request. Raises `OutcomeUnknown` if it may have arrived and was not answered, with the HTTP status
            of what came instead; `RateLimited`, `ConnectFailed`, `DeadlineExceeded`, `ClientClosed` or `ConfigurationError` if it
            did not count; any other `RequestRejected` if it was refused.
        account: Names the credentials by a salted hash; slow, so it is run in a thread, once.
        store: Remembers refusals.
        secrets: Returns what must not get into the store.
        lifetime: Seconds to use a token for, None to go by what EnKash says and documents.
        clock: Seconds since the epoch, for people who look at what the store keeps; nothing waits by it.
    """

    def __init__(
        self,
        *,
        ask: Callable[[], Awaitable[AccessToken]],
        account: Callable[[], str],
        store: BreakerStore,
        secrets: Callable[[], tuple[str, ...]] = tuple,
        lifetime: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ask = ask
        self._name_account = account
        self._account = self._boot = ""
        self._store = store
        self._secrets = secrets
        self._lifetime = lifetime
        self._clock = clock
        self._token: AccessToken | None = None
        self._refresh_at = self._ends_at = float("-inf")
        self._rejection: BreakerState | None = None
        self._silence = BreakerState()
        self._paused_until = float("-inf")
        self._flight: asyncio.Task[Outcome] | None = None
        self._waiting: set[asyncio.Future[Outcome]] = set()
        self._closed = False

    def ready(self) -> Secret | None:
        """Return the token if it is valid, and see to its renewal if it soon is not; None if one must be waited for."""
        token = self._token
        if token is None:
            return None
        now = loop_time()
        if now >= self._refresh_at:
            if now >= self._ends_at:
                return None
            if self._flight is None and not self._closed:
                if self._obstacle(now) is None:
                    self._take_off()
                else:
                    self._look_again(now)
        return token.value

    async def token(self) -> Secret:
        """Return a valid token; waits only if there is none.

        Raises:
            CredentialsRejected: EnKash refused these credentials, now or earlier.
            TokenUnavailable: requests went unanswered and the next must wait, or the breaker store failed.
            ConnectFailed: the token endpoint cannot be reached.
            RateLimited: it asked to wait for longer than there was time.
            ClientClosed: the client was closed.
            ConfigurationError: the borrowed session cannot send the request.
        """
        return self.ready() or await self._wait()

    async def renew(self, refused: Secret) -> Secret:
        """Return a token after EnKash answered 401 to this one: a new one, unless another task has already fetched it.

        Raises:
            VendorError, ConfigurationError: as `token`.
        """
        token = self._token
        if token is not None and token.value == refused:
            self._token = None
        return await self.token()

    async def aclose(self) -> None:
        """End the request under way and those who wait for it; a second time does nothing.

        A request that another event loop has under way, such as that of the parent of a forked process, is left to it.
        """
        self._closed = True
        flight = self._flight
        if flight is not None and flight.get_loop() is asyncio.get_running_loop():
            flight.cancel()
            await asyncio.wait([flight])

    async def _wait(self) -> Secret:
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        if self._flight is not None and self._flight.get_loop() is not loop:
            raise ClientClosed("another event loop runs; make a client in each loop and process. This call did nothing.")
        if self._flight is None:
            if (obstacle := self._obstacle(loop_time())) is not None:
                raise obstacle
            self._take_off()
        place: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.add(place)
        try:
            outcome = await place
        finally:
            self._waiting.discard(place)
        if isinstance(outcome, Secret):
            return outcome
        raise copy.copy(outcome)

    def _obstacle(self, now: float) -> VendorError | None:
        if self._rejection is not None:
            return self._rejected(self._rejection)
        if now < self._paused_until:
            return self._paused(self._paused_until - now)
        return None

    def _take_off(self) -> None:
        self._flight = asyncio.get_running_loop().create_task(self._fly(), name="enkash token")
        self._flight.add_done_callback(self._land)  # runs even for a task that is cancelled before its first step

    async def _fly(self) -> Outcome:
        outcome: VendorError | ConfigurationError
        try:
            return (await self._obtain()).value
        except (VendorError, ConfigurationError) as problem:
            outcome = problem
        except Exception as problem:  # noqa: BLE001 - a store or a disk may fail in any way, and must not leave callers waiting
            words = hide(f"{type(problem).__name__}: {problem}", self._secrets())
            outcome = TokenUnavailable(
                f"No access token: {self._store!r} failed ({words}), and without it no token is asked for. "
                "This call did nothing; repair the store."
            )
        logger.warning("no new EnKash token: %s", outcome)
        self._look_again(loop_time())
        return outcome

    def _land(self, flight: asyncio.Task[Outcome]) -> None:
        """Tell all who wait how it ended."""
        self._flight = None
        outcome = _closed() if flight.cancelled() else flight.result()
        for place in self._waiting:
            if not place.done():
                place.set_result(outcome)

    def _look_again(self, now: float) -> None:
        self._refresh_at = min(now + LEAST_AGE, self._ends_at)

    async def _obtain(self) -> AccessToken:
        if not self._account:
            await asyncio.to_thread(self._name)
        async with self._store.exclusive():
            known = await self._known(self._account)
            while True:
                self._heed(known)
                mark = evolve(self._now(known, None), unanswered=known.unanswered + 1)
                await self._store.save(self._account, mark)
                asked_at = loop_time()
                try:
                    token = await self._ask()
                except OutcomeUnknown as problem:
                    known = self._now(mark, problem.status)
                    await self._note(known)
                    if known.unanswered < UNANSWERED_LIMIT:
                        await asyncio.sleep(BEFORE_REPEAT)
                    continue
                except _NOT_COUNTED:
                    await self._note(known)
                    raise
                except RequestRejected as problem:
                    self._rejection = BreakerState(
                        rejected_at=self._clock(), status=problem.status, message=hide(str(problem), self._secrets())
                    )
                    await self._note(self._rejection)
                    raise self._rejected(self._rejection) from None
                self._keep(token, asked_at)
                await self._note(BreakerState(accepted_at=self._clock()))
                return token

    def _name(self) -> None:
        """Find out what account and boot are called; slow, and reads a file."""
        self._boot = boot_id()
        self._account = self._name_account()

    def _now(self, state: BreakerState, status: int | None) -> BreakerState:
        """Return that a request was under way at this moment, and what came instead of its answer."""
        return evolve(state, unanswered_at=self._clock(), unanswered_since={self._boot: uptime()}, status=status)

    async def _known(self, account: str) -> BreakerState:
        """Return what is remembered; what another host or boot left counts from when this one first heard of it."""
        known = await self._store.load(account)
        now = uptime()
        if known.unanswered >= UNANSWERED_LIMIT and known.unanswered_since.get(self._boot, math.inf) > now:
            known = evolve(known, unanswered_since={**known.unanswered_since, self._boot: now})
            await self._store.save(account, known)
        return known

    async def _note(self, state: BreakerState) -> None:
        """Replace the mark by what the answer said; if that fails, the mark stays, which errs on the safe side."""
        try:
            await self._store.save(self._account, state)
        except Exception as problem:  # noqa: BLE001 - the answer counts more than its note
            logger.warning("%r could not keep how a token request ended: %s", self._store, type(problem).__name__)

    def _heed(self, known: BreakerState) -> None:
        if known.rejected_at is not None:
            self._rejection = known
        if known.unanswered >= UNANSWERED_LIMIT:
            self._silence = known
            passed = uptime() - known.unanswered_since[self._boot]
            self._paused_until = loop_time() + (PAUSE_UNPROVEN if known.accepted_at is None else PAUSE) - passed
        if (obstacle := self._obstacle(loop_time())) is not None:
            raise obstacle

    def _keep(self, token: AccessToken, asked_at: float) -> None:
        usable = token.usable_for(self._lifetime, MARGIN)
        self._token = token
        self._ends_at = asked_at + usable
        self._refresh_at = min(asked_at + max(usable * REFRESH_AT, LEAST_AGE), self._ends_at)

    def _rejected(self, known: BreakerState) -> CredentialsRejected:
        return CredentialsRejected(
            f"EnKash refused to issue an access token ({known.message}). This call did nothing, and no other token is asked for, "
            "because three refusals in a row lock the account. Correct the credentials and make a new client; to try the same "
            f"ones again once EnKash confirms them, empty {self._store!r} first.",
            status=known.status,
        )

    def _paused(self, left: float) -> TokenUnavailable:
        advice = f"The next one is sent in {left:.0f} s: call again then."
        if self._silence.accepted_at is None:
            advice += (
                " Make sure that the credentials are right, because they have never brought a token; "
                f"to try them at once, empty {self._store!r} and make a new client."
            )
        return TokenUnavailable(
            f"No access token: {_what_came(self._silence.status)}. This call did nothing. Token requests without a proper answer "
            f"may count as failed attempts, and three of those in a row lock the account. {advice}",
            retry_after=left,
        )


def _what_came(status: int | None) -> str:
    """Return what the last token request met, without a word of the answer, which may come from anybody."""
    if status is None:
        return "no answer came to the last token request"
    if 300 <= status < 400:
        return f"the token endpoint answered with a redirect (HTTP {status}); check auth_base_url"
    if 200 <= status < 500 and status != 408:
        return f"the token endpoint answered with neither a token nor a refusal (HTTP {status}); check auth_base_url"
    return f"the token endpoint answered with HTTP {status}"


def _closed() -> ClientClosed:
    return ClientClosed("The client was closed by aclose(). This call did nothing; make a new client.")
