"""Access tokens: one request serves all tasks, renewal comes before expiry, and no account is locked by too many requests.

EnKash locks an account after three rejected token requests in a row, counted over all clients. So each request is marked in the
breaker store, under the store's lock, before it is sent, and the answer replaces the mark: a rejection, a lost reply and a crash
in between are visible to the next process.

A redirect, an empty answer or a web page counts as no answer: it may come from a proxy, a login page or a wrong address, and if
it counted as a rejection, it would stop all token requests until an operator empties the store.

A request without an answer may have been rejected, and with wrong credentials the third in a row locks the account, however late
it is sent. Credentials that have obtained a token are probably right: after two unanswered requests they are tried once a minute.
Credentials that never have are tried once in ten minutes: any other user of the account needs a token every five minutes, and
each token issued resets EnKash's count.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from attrs import evolve

from enkash_async.breakers import BreakerState, BreakerStore
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
from rewards_core.secrets import Secret
from rewards_core.text import hide

if TYPE_CHECKING:
    from enkash_async.credentials import AccessToken

logger = logging.getLogger(__name__)

MARGIN = 45.0
"""Seconds before expiry at which a token is no longer used."""
REFRESH_AT = 0.75
"""The share of its usable life after which a token is renewed in the background."""
MIN_REFRESH_INTERVAL = 5.0
"""Seconds between two background renewals: EnKash may answer with the same token and its remaining life."""
MAX_UNANSWERED = 2
"""Token requests in a row that may stay unanswered before all callers pause."""
PAUSE = 60.0
"""Seconds of that pause for credentials that have obtained a token."""
PAUSE_UNPROVEN = 600.0
"""Seconds of that pause for credentials that have not."""
RETRY_DELAY = 1.0
"""Seconds between an unanswered token request and its one retry."""

_NOT_COUNTED = (RateLimited, ConnectFailed, DeadlineExceeded, ClientClosed, ConfigurationError)
Outcome = Secret | VendorError | ConfigurationError
"""How a token request ended: a token, or the error to raise in every waiting task."""


class PasswordTokens:
    """The tokens of one account, for all tasks of one client.

    Args:
        ask: Sends one token request. It raises `OutcomeUnknown` (with the HTTP status of another answer, if any) if the request
            may have arrived and was not answered; `RateLimited`, `ConnectFailed`, `DeadlineExceeded`, `ClientClosed` or
            `ConfigurationError` if it did not count; and any other `RequestRejected` if it was rejected.
        account: Names the credentials by a salted hash. It is slow, so it runs once, in a thread.
        store: Remembers rejections and unanswered requests.
        secrets: Returns the values that must not be stored.
        lifetime: Seconds for which to use a token; None for those that EnKash states and documents.
        clock: Returns the seconds since the epoch, for operators who read the store; no pause is measured by it.
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
        self._unanswered = BreakerState()
        self._paused_until = float("-inf")
        self._fetching: asyncio.Task[Outcome] | None = None
        self._waiters: set[asyncio.Future[Outcome]] = set()
        self._closed = False

    def ready(self) -> Secret | None:
        """Return the token if it is valid, starting its renewal if that is due; None if the caller must wait for one."""
        token = self._token
        if token is None:
            return None
        now = loop_time()
        if now >= self._refresh_at:
            if now >= self._ends_at:
                return None
            if self._fetching is None and not self._closed:
                if self._obstacle(now) is None:
                    self._start()
                else:
                    self._postpone_refresh(now)
        return token.value

    async def token(self) -> Secret:
        """Return a valid token, waiting for one only if there is none.

        Raises:
            CredentialsRejected: EnKash rejected these credentials, now or earlier.
            TokenUnavailable: earlier requests were not answered and the next one must wait, or the breaker store failed.
            ConnectFailed: the token endpoint cannot be reached.
            RateLimited: the token endpoint asked for a longer pause than there was time.
            ClientClosed: the client was closed.
            ConfigurationError: the borrowed session cannot send the request.
        """
        return self.ready() or await self._wait()

    async def renew(self, refused: Secret) -> Secret:
        """Return another token after EnKash answered 401 to this one, requesting it unless another task already did.

        Raises:
            VendorError, ConfigurationError: as `token`.
        """
        token = self._token
        if token is not None and token.value == refused:
            self._token = None
        return await self.token()

    async def aclose(self) -> None:
        """Cancel the request in progress and fail the tasks that wait for it; a second call does nothing.

        A request of another event loop, such as that of a forked process's parent, is left alone.
        """
        self._closed = True
        task = self._fetching
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    async def _wait(self) -> Secret:
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        if self._fetching is not None and self._fetching.get_loop() is not loop:
            raise ClientClosed("The client belongs to another event loop. This call did nothing; create a client in each loop.")
        if self._fetching is None:
            if (obstacle := self._obstacle(loop_time())) is not None:
                raise obstacle
            self._start()
        waiter: asyncio.Future[Outcome] = loop.create_future()
        self._waiters.add(waiter)
        try:
            outcome = await waiter
        finally:
            self._waiters.discard(waiter)
        if isinstance(outcome, Secret):
            return outcome
        raise copy.copy(outcome)

    def _obstacle(self, now: float) -> VendorError | None:
        if self._rejection is not None:
            return self._rejected(self._rejection)
        if now < self._paused_until:
            return self._paused(self._paused_until - now)
        return None

    def _start(self) -> None:
        self._fetching = asyncio.get_running_loop().create_task(self._fetch(), name="enkash token")
        self._fetching.add_done_callback(self._deliver)  # also runs for a task that is cancelled before its first step

    async def _fetch(self) -> Outcome:
        outcome: VendorError | ConfigurationError
        try:
            return (await self._obtain()).value
        except (VendorError, ConfigurationError) as problem:
            outcome = problem
        except Exception as problem:  # noqa: BLE001 - a store may fail in any way, and callers must not wait for ever
            words = hide(f"{type(problem).__name__}: {problem}", self._secrets())
            outcome = TokenUnavailable(
                f"No access token: {self._store!r} failed ({words}), and no token is requested without it. "
                "This call did nothing; repair the store."
            )
        logger.warning("could not get a new EnKash token: %s", outcome)
        self._postpone_refresh(loop_time())
        return outcome

    def _deliver(self, task: asyncio.Task[Outcome]) -> None:
        """Pass the outcome to every waiting task."""
        self._fetching = None
        outcome = _closed() if task.cancelled() else task.result()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(outcome)

    def _postpone_refresh(self, now: float) -> None:
        self._refresh_at = min(now + MIN_REFRESH_INTERVAL, self._ends_at)

    async def _obtain(self) -> AccessToken:
        if not self._account:
            await asyncio.to_thread(self._name)
        async with self._store.exclusive():
            known = await self._load(self._account)
            while True:
                self._check_state(known)
                mark = evolve(self._in_progress(known, None), unanswered=known.unanswered + 1)
                await self._store.save(self._account, mark)
                asked_at = loop_time()
                try:
                    token = await self._ask()
                except OutcomeUnknown as problem:
                    known = self._in_progress(mark, problem.status)
                    await self._save(known)
                    if known.unanswered < MAX_UNANSWERED:
                        await asyncio.sleep(RETRY_DELAY)
                    continue
                except _NOT_COUNTED:
                    await self._save(known)
                    raise
                except RequestRejected as problem:
                    self._rejection = BreakerState(
                        rejected_at=self._clock(), status=problem.status, message=hide(str(problem), self._secrets())
                    )
                    await self._save(self._rejection)
                    raise self._rejected(self._rejection) from None
                self._keep(token, asked_at)
                await self._save(BreakerState(accepted_at=self._clock()))
                return token

    def _name(self) -> None:
        self._boot = boot_id()
        self._account = self._name_account()

    def _in_progress(self, state: BreakerState, status: int | None) -> BreakerState:
        """Return the state with a request in progress now, and with the status of what came instead of its answer."""
        return evolve(state, unanswered_at=self._clock(), unanswered_since={self._boot: uptime()}, status=status)

    async def _load(self, account: str) -> BreakerState:
        """Return the stored state; a pause left by another host or boot counts from when this one first loaded it."""
        known = await self._store.load(account)
        now = uptime()
        if known.unanswered >= MAX_UNANSWERED and known.unanswered_since.get(self._boot, math.inf) > now:
            known = evolve(known, unanswered_since={**known.unanswered_since, self._boot: now})
            await self._store.save(account, known)
        return known

    async def _save(self, state: BreakerState) -> None:
        """Replace the mark by what the answer said. If that fails, the mark stays, which is on the safe side."""
        try:
            await self._store.save(self._account, state)
        except Exception as problem:  # noqa: BLE001 - the answer matters more than its record
            logger.warning(
                "%r could not store the outcome of a token request (%s); there the request still counts as unanswered",
                self._store,
                type(problem).__name__,
            )

    def _check_state(self, known: BreakerState) -> None:
        if known.rejected_at is not None:
            self._rejection = known
        if known.unanswered >= MAX_UNANSWERED:
            self._unanswered = known
            passed = uptime() - known.unanswered_since[self._boot]
            self._paused_until = loop_time() + (PAUSE_UNPROVEN if known.accepted_at is None else PAUSE) - passed
        if (obstacle := self._obstacle(loop_time())) is not None:
            raise obstacle

    def _keep(self, token: AccessToken, asked_at: float) -> None:
        usable = token.usable_for(self._lifetime, MARGIN)
        self._token = token
        self._ends_at = asked_at + usable
        self._refresh_at = min(asked_at + max(usable * REFRESH_AT, MIN_REFRESH_INTERVAL), self._ends_at)

    def _rejected(self, known: BreakerState) -> CredentialsRejected:
        return CredentialsRejected(
            f"EnKash rejected the credentials ({known.message}). This call did nothing, and no other token is requested, because "
            "three rejections in a row lock the account. Correct the credentials and create a new client; to try the same ones "
            f"again once EnKash confirms them, empty {self._store!r} first.",
            status=known.status,
        )

    def _paused(self, left: float) -> TokenUnavailable:
        advice = f"The next request is sent in {left:.0f} s: call again then."
        if self._unanswered.accepted_at is None:
            advice += (
                " These credentials have never obtained a token: check them. "
                f"To try them at once, empty {self._store!r} and create a new client."
            )
        return TokenUnavailable(
            f"No access token: {_describe(self._unanswered.status)}. This call did nothing. Unanswered token requests may "
            f"count as failed attempts, and three of those in a row lock the account. {advice}",
            retry_after=left,
        )


def _describe(status: int | None) -> str:
    """Return what came instead of an answer, without its words: it may come from anywhere."""
    if status is None:
        return "the last token request was not answered"
    if 300 <= status < 400:
        return f"the token endpoint answered with a redirect (HTTP {status}); check auth_base_url"
    if 200 <= status < 500 and status != 408:
        return f"the token endpoint answered with neither a token nor a rejection (HTTP {status}); check auth_base_url"
    return f"the token endpoint answered with HTTP {status}"


def _closed() -> ClientClosed:
    return ClientClosed("The client was closed by aclose(). This call did nothing; create a new client.")
