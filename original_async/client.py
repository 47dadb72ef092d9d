"""The client: the reward family of Original, under the names of the vendor's own SDK."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, Unpack

from attrs import evolve

from original_async.auth import Tokens
from original_async.conclusion import conclude
from original_async.errors import read_refusal
from original_async.lookup import ADVICE, LONGEST_RESERVE, MODELS, READ_PATHS, Lookup, read_created, reconcile, says_known
from original_async.models import ALLOCATION, CLAIM, Allocation, AllocationRequest, Claim, ClaimRequest
from original_async.settings import find_base_url, options_from
from rewards_core.errors import Forbidden, OutcomeUnknown, RateLimited, RequestRejected, Unauthorized, UnexpectedResponse
from rewards_core.http.calls import warn_of_cancellation
from rewards_core.http.messages import Effect, Request
from rewards_core.http.refusals import affirms_existence
from rewards_core.http.transport import Transport
from rewards_core.json import dumps, number_of, structure
from rewards_core.operations import DEFAULT_SCOPE, KeyedRequest, Operation, OperationRef, OperationStatus
from rewards_core.secrets import shielded
from rewards_core.validation import (
    check_amount,
    check_callable,
    check_choice,
    check_flag,
    check_id,
    check_iterable,
    check_key,
    check_methods,
    kind_of,
    plain_id,
)

if TYPE_CHECKING:
    from types import TracebackType

    from original_async.models import Balance, Reward
    from original_async.settings import AmountAs, ClientOptions, Environment, ReadPath
    from rewards_core.backoff import RetryPolicy
    from rewards_core.http.timeouts import Timeouts
    from rewards_core.http.transport import Session
    from rewards_core.operations import Event, MaySend
    from rewards_core.rate import Limits

H = TypeVar("H")


class OriginalClient:
    """Allocate and claim rewards at Original, safely for many tasks at once, from one event loop and process.

    Use it as `async with OriginalClient(...) as original:`, or call `aclose()` when done.

    Args:
        api_key: The app's API key.
        api_secret: The secret that belongs to it; it signs tokens and never leaves the process.
        environment: `"production"` or `"development"`; a property of the app.
        base_url: Another address, `/v1` included.
        session: A session to borrow; never closed here. One is made and owned if not given.
        timeouts: Seconds per call and attempt.
        retry: How often a call is tried.
        limits: Calls under way at once and per second.
        observers: Objects with any of `on_start`, `on_retry`, `on_end`.
        read_path: Where allocations are read: `"allocation"` or `"allocate"` as the documents have both, or `"auto"` to find out.
        amount_as: Whether amounts are sent as `"string"`, as documented, or as `"number"` with the same digits.
        token_lifetime: Seconds a token is valid, from 60 to ten years; None for tokens without an end.
        scope: What the app's operations are kept under, where several apps share a store.
        allow_insecure: Whether `base_url` may be plain http outside loopback.
        clock: Returns the seconds since the epoch, for the end that a token names.
        random: Returns a number from 0 to 1, which spreads repeated requests.

    Raises:
        ValueError: an argument cannot be what it should; the text says what to give.
        TypeError: an argument has another type.
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
        self._tokens = Tokens(api_key, api_secret, lifetime=token_lifetime, clock=clock)
        self._transport = Transport(
            vendor="Original",
            base_url=self._base_url,
            authorizer=self._tokens,
            refusal=read_refusal,
            session=session,
            timeouts=timeouts,
            retry=retry,
            limits=limits,
            observers=observers,
            random=random,
        )
        self._lookup = Lookup(self._transport, self._scope, None if read_path == "auto" else read_path)
        self._allocate_url = self._transport.url("reward", "allocate")
        self._claim_url = self._transport.url("reward", "claim")

    @classmethod
    @shielded
    def from_env(cls, **arguments: Unpack[ClientOptions]) -> Self:
        """Make a client from the environment.

        It reads `ORIGINAL_API_KEY`, `ORIGINAL_API_SECRET`, `ORIGINAL_BASE_URL` and `ORIGINAL_ENVIRONMENT`; empty is absent.

        Args:
            arguments: Any argument of the client; it wins over the environment.

        Raises:
            ValueError: key or secret are in neither place, or a value cannot be what it should.
        """
        return cls(**options_from(os.environ, arguments))

    @property
    def scope(self) -> str:
        """The scope of every operation this client makes."""
        return self._scope

    async def create_allocation(
        self,
        *,
        reward_uid: str,
        to_user_uid: str,
        amount: str | int | Decimal,
        nonce: str,
        repeated: bool = False,
        timeout: float | None = None,
    ) -> Allocation:
        """Allocate tokens of a reward to a user; the chain carries it out later.

        The call retries with the same bytes. If the vendor refuses, or no answer says what happened, the user's allocations are
        searched for the nonce; a fifth of the time, at most 5 s, is kept for that. See
        https://docs.getoriginal.com/docs/allocate-rewards.

        To try again after an error, use the same nonce and `repeated=True`, as often and as late as you like. Bound the call by
        `timeout` rather than by cancelling it: a cancelled call raises `CancelledError` and leaves only a warning in the log.

        Args:
            reward_uid: The reward contract.
            to_user_uid: The user who will be able to claim the tokens.
            amount: How many, above 0, with up to 60 digits and up to 30 decimals; never a float.
            nonce: Names this payout for ever; made once, kept before the call, the same in every repetition.
            repeated: Whether an earlier call with this nonce may have been sent, by this process or another. A refusal then never
                ends as `RequestRejected`: what an earlier call did, only the look-up can tell.
            timeout: Seconds for this call, look-up included, above 0; the client's `timeouts.total` if not given.

        Returns:
            The allocation, `pending`; or as it stands by now, with `recovered=True`, if it was found by its nonce.

        Raises:
            ValueError: an argument cannot be what it should; nothing was sent.
            TypeError: an argument has another type; nothing was sent.
            ConfigurationError: the client's settings or its borrowed session cannot be used; nothing was sent.
            Conflict: the nonce is held by an allocation with another reward or amount.
            Unauthorized, Forbidden, RateLimited: the vendor refused the caller; this call did nothing. They say nothing about
                earlier calls.
            RequestRejected: the vendor refused, and this call did nothing. Only without `repeated`.
            UnexpectedResponse: the answer was a redirect, which is never followed: check the base URL.
            ConnectFailed: nothing was sent by this call; it says nothing about earlier calls.
            OutcomeUnknown: it may have been carried out, by this call or an earlier one: pass the error to `Completions.wait`, or
                repeat the call. Its `request` is an `AllocationRequest`.
            ClientClosed: the client is closed, or used from another loop or process; nothing was sent by this call.
        """
        reward_uid, to_user_uid = check_id(reward_uid, "reward_uid"), check_id(to_user_uid, "to_user_uid")
        digits, nonce, repeated = check_amount(amount), check_key(nonce, "nonce"), check_flag(repeated, "repeated")
        body = dumps(
            {
                "reward_uid": reward_uid,
                "to_user_uid": to_user_uid,
                "amount": number_of(digits) if self._amount_as_number else digits,
                "nonce": nonce,
            }
        )
        seconds, deadline = timeout or self._transport.timeouts.total, self._transport.deadline(timeout)
        trouble: RequestRejected | OutcomeUnknown
        try:
            created = await self._transport.call(
                Request(
                    operation="create_allocation",
                    method="POST",
                    url=self._allocate_url,
                    effect=Effect.KEYED,
                    read=read_created,
                    body=body,
                    key=nonce,
                    advice=ADVICE,
                    deadline=deadline - min(LONGEST_RESERVE, seconds / 5),
                )
            )
        except (Unauthorized, Forbidden, RateLimited):
            raise
        except (RequestRejected, OutcomeUnknown) as problem:
            trouble = problem
        else:
            return Allocation(
                uid=created["uid"],
                status=OperationStatus.PENDING,
                reward_uid=reward_uid,
                to_user_uid=to_user_uid,
                amount=Decimal(digits),
                nonce=nonce,
                scope=self._scope,
                raw=created,
            )
        asked = AllocationRequest(
            reward_uid=reward_uid, to_user_uid=to_user_uid, amount=Decimal(digits), nonce=nonce, scope=self._scope
        )
        try:
            return await reconcile(
                asked,
                trouble,
                repeated=repeated,
                look_up=partial(self._lookup.under_nonces, to_user_uid, (nonce,), deadline),
                started=deadline - seconds,
                deadline=deadline,
            )
        except asyncio.CancelledError:
            if repeated or isinstance(trouble, OutcomeUnknown) or says_known(trouble):
                warn_of_cancellation("Original create_allocation", nonce, ADVICE)
            raise

    async def get_allocation(self, uid: str, *, timeout: float | None = None) -> Allocation:
        """Read one allocation.

        Args:
            uid: The vendor's id of it.
            timeout: Seconds for this call, above 0; the client's if not given.

        Raises:
            NotFound: the vendor knows none of that uid; a new one may not be readable yet.
            VendorError: as every read.
        """
        return await self._lookup.allocation(check_id(uid, "uid"), self._transport.deadline(timeout))

    async def get_allocations_by_user_uid(
        self,
        user_uid: str,
        *,
        before_page: Callable[[], Awaitable[object]] | None = None,
        timeout: float | None = None,
    ) -> list[Allocation]:
        """Read all allocations to a user, page after page; an unknown user has none.

        Args:
            user_uid: The user.
            before_page: Awaited before each further page; every page then has the client's whole time.
            timeout: Seconds for this call, all pages included, above 0; the client's if not given.

        Raises:
            UnexpectedResponse: the vendor says that there are more than it shows.
            VendorError: as every read.
        """
        user_uid, before_page = check_id(user_uid, "user_uid"), _checked_hook(before_page, "before_page")
        deadline = self._transport.deadline(timeout)
        return (await self._lookup.allocations(user_uid, deadline, before_page=before_page)).all()

    async def find_allocation(
        self, to_user_uid: str, nonce: str, reward_uid: str | None = None, *, timeout: float | None = None
    ) -> Allocation | None:
        """Look an allocation up by its nonce, among those of its user; a new one may not be listed yet.

        Args:
            to_user_uid: The user it was made for.
            nonce: The nonce it was made with.
            reward_uid: Only of this reward contract, if given.
            timeout: Seconds for this call, all pages included, above 0; the client's if not given.

        Returns:
            The allocation, None if a complete list shows none.

        Raises:
            UnexpectedResponse: it is not among what the vendor shows, and there is more than it shows.
            VendorError: as every read.
        """
        wanted = None if reward_uid is None else check_id(reward_uid, "reward_uid")
        user_uid, nonce = check_id(to_user_uid, "to_user_uid"), check_key(nonce, "nonce")
        listing = await self._lookup.under_nonces(user_uid, (nonce,), self._transport.deadline(timeout))
        held = next((each for each in listing.found if wanted in {None, each.reward_uid}), None)
        if held is None:
            listing.all()
        return held

    async def find_operations(
        self,
        requests: Sequence[KeyedRequest],
        *,
        before_page: Callable[[], Awaitable[object]] | None = None,
        may_send: MaySend | None = None,
        timeout: float | None = None,
    ) -> Sequence[Allocation]:
        """Look several allocations of one user up by their nonces, with one listing.

        Args:
            requests: What was asked for, as an `OutcomeUnknown` carries it.
            before_page: Awaited before each further page; every page then has the client's whole time.
            may_send: Awaited when the request for a page is about to leave, which is not sent if it returns False: the first page
                then fails, a further one waits for `before_page` again. No page is then asked for while the vendor wants all
                calls to pause, and none is repeated but after 401.
            timeout: Seconds for this call, above 0; the client's if not given.

        Returns:
            Every listed allocation that bears one of the nonces, `recovered`. That one is missing proves nothing.

        Raises:
            VendorError: as every read; also where the list is incomplete and shows none of them.
            ValueError: they are not of one user, or one of them is no `AllocationRequest` of this client's scope.
            TypeError: they are no list, or one of them is no request.
        """
        before_page, may_send = _checked_hook(before_page, "before_page"), _checked_hook(may_send, "may_send")
        requests = tuple(check_iterable(requests, "requests", "a list of AllocationRequest(...)"))
        for request in requests:
            check_methods(request, "requests", "AllocationRequest(...)", KeyedRequest)
            if not isinstance(request, AllocationRequest) or (request.scope, request.owner) != (self._scope, requests[0].owner):
                raise ValueError(f"requests: give allocation requests of one user in scope {self._scope!r}, not {request!r}.")
        if not requests:
            return []
        nonces = {request.key for request in requests}
        listing = await self._lookup.under_nonces(
            requests[0].owner, nonces, self._transport.deadline(timeout), before_page=before_page, may_send=may_send
        )
        found = listing.found or listing.all()
        return [evolve(allocation, recovered=True) for allocation in found]

    async def create_claim(self, *, reward_uid: str, from_user_uid: str, to_address: str, timeout: float | None = None) -> Claim:
        """Move a user's tokens of a reward to a wallet outside; the chain carries it out later.

        A claim has no nonce, so it is never sent twice: without an answer it ends as `OutcomeUnknown`. See
        https://docs.getoriginal.com/docs/claim-rewards.

        Args:
            reward_uid: The reward contract.
            from_user_uid: The user who claims.
            to_address: The wallet that receives the tokens.
            timeout: Seconds for this call, above 0; the client's if not given.

        Returns:
            The claim, `pending`, its amount not yet known.

        Raises:
            ValueError: an argument cannot be what it should; nothing was sent.
            TypeError: an argument has another type; nothing was sent.
            ConfigurationError: the client's settings or its borrowed session cannot be used; nothing was sent.
            RequestRejected: the vendor refused, and this call did nothing.
            UnexpectedResponse: the answer was a redirect, which is never followed: check the base URL.
            ConnectFailed: nothing was sent.
            OutcomeUnknown: it may have been carried out, or the vendor says that such a claim exists; look among
                `get_claims_by_user_uid`. Its `request` is a `ClaimRequest`.
            ClientClosed: the client is closed, or used from another loop or process.
        """
        reward_uid, from_user_uid = check_id(reward_uid, "reward_uid"), check_id(from_user_uid, "from_user_uid")
        to_address = check_id(to_address, "to_address")
        content = {"reward_uid": reward_uid, "from_user_uid": from_user_uid, "to_address": to_address}
        created = await self._transport.call(
            Request(
                operation="create_claim",
                method="POST",
                url=self._claim_url,
                effect=Effect.BARE,
                read=read_created,
                body=dumps(content),
                asked=ClaimRequest(**content, scope=self._scope),
                says_known=partial(affirms_existence, about=("claim",)),
                advice="look among the user's claims before you claim again",
                deadline=self._transport.deadline(timeout),
            )
        )
        return Claim(
            uid=created["uid"],
            status=OperationStatus.PENDING,
            reward_uid=reward_uid,
            from_user_uid=from_user_uid,
            to_address=to_address,
            scope=self._scope,
            raw=created,
        )

    async def get_claim(self, uid: str, *, timeout: float | None = None) -> Claim:
        """Read one claim.

        Args:
            uid: The vendor's id of it.
            timeout: Seconds for this call, above 0; the client's if not given.

        Raises:
            NotFound: the vendor knows none of that uid; a new one may not be readable yet.
            VendorError: as every read.
        """
        return await self._lookup.claim(check_id(uid, "uid"), self._transport.deadline(timeout))

    async def get_claims_by_user_uid(self, user_uid: str, *, timeout: float | None = None) -> list[Claim]:
        """Read all claims of a user, page after page; an unknown user has none.

        Args:
            user_uid: The user.
            timeout: Seconds for this call, all pages included, above 0; the client's if not given.

        Raises:
            UnexpectedResponse: the vendor says that there are more than it shows.
            VendorError: as every read.
        """
        user_uid = check_id(user_uid, "user_uid")
        return (await self._lookup.claims(user_uid, self._transport.deadline(timeout))).all()

    async def get_reward(self, uid: str, *, timeout: float | None = None) -> Reward:
        """Read one reward contract.

        Args:
            uid: The reward contract.
            timeout: Seconds for this call, above 0; the client's if not given.

        Raises:
            NotFound: the vendor knows none of that uid.
            VendorError: as every read.
        """
        return await self._lookup.reward(check_id(uid, "uid"), self._transport.deadline(timeout))

    async def get_balance(self, reward_uid: str, user_uid: str, *, timeout: float | None = None) -> Balance:
        """Read what a user holds of a reward in the wallet inside the app.

        Args:
            reward_uid: The reward contract.
            user_uid: The user.
            timeout: Seconds for this call, above 0; the client's if not given.

        Raises:
            NotFound: the vendor knows no such reward.
            VendorError: as every read.
        """
        reward_uid, user_uid = check_id(reward_uid, "reward_uid"), check_id(user_uid, "user_uid")
        return await self._lookup.balance(reward_uid, user_uid, self._transport.deadline(timeout))

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        """Return the ref of an allocation or claim, of a ref (itself) or of a bare uid, which is an allocation's.

        Raises:
            ValueError: the uid cannot be one, or the operation is of another scope or kind than this client's.
            TypeError: it is none of these.
        """
        if isinstance(operation, str):
            return OperationRef(self._scope, ALLOCATION, check_id(operation, "uid"))
        ref = operation if isinstance(operation, OperationRef) else getattr(operation, "ref", None)
        if not isinstance(ref, OperationRef):
            raise TypeError(f"operation: give an Allocation, a Claim, a ref or a uid, not {kind_of(operation)}.")
        if ref.scope != self._scope:
            raise ValueError(f"operation: expected one of scope {self._scope!r}, got {ref}; ask the client of that scope")
        if ref.kind not in MODELS:
            raise ValueError(f"operation: expected an {ALLOCATION} or a {CLAIM}, got {ref}; Original has no other kind")
        if not plain_id(ref.uid):
            check_id(ref.uid, "uid")
        return ref

    async def read_operation(
        self, ref: OperationRef, *, may_send: MaySend | None = None, timeout: float | None = None
    ) -> Allocation | Claim:
        """Ask the vendor how an allocation or claim stands.

        Args:
            ref: The allocation or claim.
            may_send: Awaited when the request is about to leave, which is not sent if it returns False. It is then sent once, and
                not while the vendor wants all calls to pause; again after 401 alone, if that may be sent too.
            timeout: Seconds for this call, above 0; the client's if not given.

        Raises:
            ConnectFailed: nothing was sent.
            NotFound: the vendor knows no such operation; a new one may not be readable yet.
            ValueError: it is of another scope or kind.
            VendorError: as every read.
        """
        ref = self.ref_of(ref)
        read = self._lookup.allocation if ref.kind == ALLOCATION else self._lookup.claim
        return await read(ref.uid, self._transport.deadline(timeout), may_send=_checked_hook(may_send, "may_send"))

    def parse_operation(self, ref: OperationRef, resource: Mapping[str, Any]) -> Allocation | Claim:
        """Build the model from the vendor's JSON object, as kept in a store or found in an event.

        Args:
            ref: The operation it should be.
            resource: The object, its numbers parsed exactly.

        Raises:
            UnexpectedResponse: the object is not a complete resource of that kind and uid.
            ValueError: the operation is of another scope or kind.
        """
        ref = self.ref_of(ref)
        model: Allocation | Claim = structure(resource, MODELS[ref.kind])
        return model if model.uid == ref.uid and self._scope == DEFAULT_SCOPE else self._lookup.checked(model, ref.uid)

    def operation_of(self, event: Event) -> Allocation | Claim | None:
        """Return the operation whose complete resource a webhook event carries, as a model.

        Args:
            event: As a handler gets it.

        Returns:
            The allocation or claim in its terminal status; None for an event that carries none, or one of another scope.
        """
        if event.ref is None or event.resource is None:
            return None
        try:
            return self.parse_operation(event.ref, event.resource)
        except (UnexpectedResponse, ValueError):
            return None

    def conclude(self, asked: Operation | KeyedRequest | None, final: Operation) -> Operation:
        """Return the terminal operation if it is done and is what was asked for.

        Args:
            asked: The operation as it was created here, or the request whose allocation was found by its nonce, or None if only
                its ref is known.
            final: The operation in a terminal status.

        Returns:
            The final operation; `recovered` where it was found by its nonce.

        Raises:
            OperationMismatch: it settled, done or failed, with another nonce, reward, user, amount or address.
            AllocationFailed: the chain said that the allocation failed.
            ClaimFailed: the chain said that the claim failed.
        """
        return conclude(asked, final)

    async def aclose(self) -> None:
        """Close the connections this client owns; a second time does nothing.

        Raises:
            ClientClosed: connections are open in another event loop; close the client where it was used.
        """
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<OriginalClient at {self._base_url}, scope {self._scope}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("OriginalClient cannot be pickled or copied: it holds connections and a secret; make another one there")


def _checked_hook(hook: H | None, name: str) -> H | None:
    return None if hook is None else check_callable(hook, name)
