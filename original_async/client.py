"""The client of Original's rewards, with the method names of the vendor's own SDK."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack

from attrs import evolve

from original_async.auth import TokenAuthorizer
from original_async.errors import read_refusal
from original_async.lookup import READ_PATHS, Lookup, read_created
from original_async.models import ALLOCATION, CLAIM, MODELS, Allocation, AllocationRequest, Claim, ClaimRequest
from original_async.settings import find_base_url, options_from
from original_async.settlement import ADVICE, MAX_LOOKUP_RESERVE, conclude, reconcile, says_known
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

    from original_async.lookup import BeforePage
    from original_async.models import Balance, Reward
    from original_async.settings import AmountAs, ClientOptions, Environment, ReadPath
    from rewards_core.backoff import RetryPolicy
    from rewards_core.http.timeouts import Timeouts
    from rewards_core.http.transport import Session
    from rewards_core.operations import Event, MaySend
    from rewards_core.rate import Limits


class OriginalClient:
    """Allocate and claim rewards at Original.

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
        observers: Objects with any of the methods `on_start`, `on_retry` and `on_end`.
        read_path: The path of allocations, `"allocation"` or `"allocate"`: the documents name both. `"auto"` finds out.
        amount_as: Whether amounts are sent as `"string"`, as documented, or as `"number"` with the same digits.
        token_lifetime: Seconds for which a token is valid, 60 to 315,360,000 (ten years); None for tokens that do not expire.
        scope: The name under which the app's operations are stored, where several apps share a store.
        allow_insecure: Whether `base_url` may be plain http to a host other than this machine.
        clock: Returns the seconds since the epoch, for the expiry of tokens.
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
        self._lookup = Lookup(self._transport, self._scope, None if read_path == "auto" else read_path)
        self._allocate_url = self._transport.url("reward", "allocate")
        self._claim_url = self._transport.url("reward", "claim")

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
        """Allocate tokens of a reward to a user; the blockchain confirms the allocation later.

        Retries send the same bytes. If the vendor rejects the request, or its outcome is not known, the user's allocations are
        searched for the nonce; a fifth of the timeout, at most 5 s, is reserved for that. See
        https://docs.getoriginal.com/docs/allocate-rewards.

        To try again after an error, repeat the call with the same nonce and `repeated=True`, as often and as late as needed.
        Limit the call by `timeout`, not by cancelling it: a cancelled call raises `CancelledError`, and only a log line says that
        it may have been carried out.

        Args:
            reward_uid: The reward contract.
            to_user_uid: The user who can then claim the tokens.
            amount: The number of tokens, above 0, with at most 60 digits and 30 decimals. A float is refused.
            nonce: The idempotency key of this payout. Create it once, store it before the call, and use it in every repetition.
            repeated: Whether an earlier call with this nonce may have been sent, by any process. A rejection then never ends as
                `RequestRejected`, because only the look-up can tell what the earlier call did.
            timeout: Seconds for this call including the look-up, above 0; by default the client's `timeouts.total`.

        Returns:
            The allocation, `pending`; or, if it was found by its nonce, in its current status and with `recovered=True`.

        Raises:
            Conflict: the nonce belongs to an allocation with another reward, user or amount; this call created nothing.
            Unauthorized, Forbidden, RateLimited: the vendor refused the caller; this call did nothing. An earlier call may have
                been carried out.
            RequestRejected: the vendor rejected the request; this call did nothing. Never with `repeated=True`.
            ConnectFailed: this call sent nothing. An earlier call may have been carried out.
            OutcomeUnknown: this call or an earlier one may have been carried out. Pass the error to `Completions.wait`, or repeat
                the call. Its `request` is an `AllocationRequest`.
            UnexpectedResponse: the answer was a redirect, which is never followed; check the base URL.
            ValueError, TypeError, ConfigurationError, ClientClosed: this call sent nothing.
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
                    deadline=deadline - min(MAX_LOOKUP_RESERVE, seconds / 5),
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
                look_up=partial(self._lookup.allocations_by_nonce, to_user_uid, (nonce,), deadline),
                started=deadline - seconds,
                deadline=deadline,
            )
        except asyncio.CancelledError:
            if repeated or isinstance(trouble, OutcomeUnknown) or says_known(trouble):
                warn_of_cancellation("Original create_allocation", nonce, ADVICE)
            raise

    async def get_allocation(self, uid: str, *, timeout: float | None = None) -> Allocation:
        """Read one allocation; see https://docs.getoriginal.com/docs/get-allocation-details-by-uid.

        Args:
            uid: The allocation's uid.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such allocation; one just created may not be readable yet.
            VendorError: the call failed.
        """
        return await self._lookup.allocation(check_id(uid, "uid"), self._transport.deadline(timeout))

    async def get_allocations_by_user_uid(
        self,
        user_uid: str,
        *,
        before_page: BeforePage | None = None,
        timeout: float | None = None,
    ) -> list[Allocation]:
        """Read all allocations to a user, over all pages; an unknown user has none.

        See https://docs.getoriginal.com/docs/get-list-of-allocations-by-user-uid.

        Args:
            user_uid: The user.
            before_page: Awaited before each further page, which then has the client's whole `timeouts.total`.
            timeout: Seconds for this call including all pages, above 0; by default the client's `timeouts.total`.

        Raises:
            UnexpectedResponse: the list is incomplete: the vendor says that there are more allocations than it shows.
            VendorError: the call failed.
        """
        user_uid = check_id(user_uid, "user_uid")
        _check_hook(before_page, "before_page")
        return (await self._lookup.allocations(user_uid, self._transport.deadline(timeout), before_page=before_page)).all()

    async def find_allocation(
        self, to_user_uid: str, nonce: str, reward_uid: str | None = None, *, timeout: float | None = None
    ) -> Allocation | None:
        """Find an allocation by its nonce, in the list of its user; one just created may not be listed yet.

        Args:
            to_user_uid: The user it was created for.
            nonce: The nonce it was created with.
            reward_uid: Its reward contract; any if None.
            timeout: Seconds for this call including all pages, above 0; by default the client's `timeouts.total`.

        Returns:
            The allocation; None if a complete list does not show it.

        Raises:
            UnexpectedResponse: the list does not show it and is incomplete.
            VendorError: the call failed.
        """
        wanted = None if reward_uid is None else check_id(reward_uid, "reward_uid")
        user_uid, nonce = check_id(to_user_uid, "to_user_uid"), check_key(nonce, "nonce")
        listing = await self._lookup.allocations_by_nonce(user_uid, (nonce,), self._transport.deadline(timeout))
        held = next((each for each in listing.found if wanted in {None, each.reward_uid}), None)
        if held is None:
            listing.all()
        return held

    async def find_operations(
        self,
        requests: Sequence[KeyedRequest],
        *,
        before_page: BeforePage | None = None,
        may_send: MaySend | None = None,
        timeout: float | None = None,
    ) -> Sequence[Allocation]:
        """Find several allocations of one user by their nonces, with one list.

        Args:
            requests: What was asked for, as an `OutcomeUnknown` holds it; all of one user.
            before_page: Awaited before each further page, which then has the client's whole `timeouts.total`.
            may_send: Awaited just before the request for a page is sent. If it returns False, the request is not sent: the first
                page then fails, and a further one waits for `before_page` again. With `may_send`, nothing is sent while the
                vendor wants all calls to pause, and no page is requested twice except after a 401.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Returns:
            Every listed allocation under one of the nonces, with `recovered=True`. An allocation missing here may still exist.

        Raises:
            UnexpectedResponse: the list is incomplete and shows none of the nonces.
            VendorError: the call failed.
            ValueError: the requests are not of one user, or one is not an `AllocationRequest` of this client's scope.
            TypeError: `requests` is not a list of requests.
        """
        _check_hook(before_page, "before_page")
        _check_hook(may_send, "may_send")
        requests = tuple(check_iterable(requests, "requests", "a list of AllocationRequest(...)"))
        for request in requests:
            check_methods(request, "requests", "AllocationRequest(...)", KeyedRequest)
            if not isinstance(request, AllocationRequest) or (request.scope, request.owner) != (self._scope, requests[0].owner):
                raise ValueError(f"requests: give allocation requests of one user in scope {self._scope!r}, not {request!r}.")
        if not requests:
            return []
        nonces = {request.key for request in requests}
        listing = await self._lookup.allocations_by_nonce(
            requests[0].owner, nonces, self._transport.deadline(timeout), before_page=before_page, may_send=may_send
        )
        return [evolve(allocation, recovered=True) for allocation in listing.found or listing.all()]

    async def create_claim(self, *, reward_uid: str, from_user_uid: str, to_address: str, timeout: float | None = None) -> Claim:
        """Move a user's tokens of a reward to an external wallet; the blockchain confirms the claim later.

        A claim has no nonce, so it is never sent twice. See https://docs.getoriginal.com/docs/claim-rewards.

        Args:
            reward_uid: The reward contract.
            from_user_uid: The user who claims.
            to_address: The external wallet that receives the tokens.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Returns:
            The claim, `pending`; its amount is None until it is read.

        Raises:
            RequestRejected: the vendor rejected the request; this call did nothing.
            ConnectFailed: nothing was sent.
            OutcomeUnknown: the claim may have been created, or the vendor says that it already exists. Look for it among
                `get_claims_by_user_uid` before claiming again. Its `request` is a `ClaimRequest`.
            UnexpectedResponse: the answer was a redirect, which is never followed; check the base URL.
            ValueError, TypeError, ConfigurationError, ClientClosed: nothing was sent.
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
                advice="look for it among the user's claims before claiming again",
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
        """Read one claim; see https://docs.getoriginal.com/docs/get-claim-details-by-uid.

        Args:
            uid: The claim's uid.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such claim; one just created may not be readable yet.
            VendorError: the call failed.
        """
        return await self._lookup.claim(check_id(uid, "uid"), self._transport.deadline(timeout))

    async def get_claims_by_user_uid(self, user_uid: str, *, timeout: float | None = None) -> list[Claim]:
        """Read all claims of a user, over all pages; an unknown user has none.

        See https://docs.getoriginal.com/docs/get-list-of-claims-by-user-uid.

        Args:
            user_uid: The user.
            timeout: Seconds for this call including all pages, above 0; by default the client's `timeouts.total`.

        Raises:
            UnexpectedResponse: the list is incomplete: the vendor says that there are more claims than it shows.
            VendorError: the call failed.
        """
        user_uid = check_id(user_uid, "user_uid")
        return (await self._lookup.claims(user_uid, self._transport.deadline(timeout))).all()

    async def get_reward(self, uid: str, *, timeout: float | None = None) -> Reward:
        """Read a reward contract; see https://docs.getoriginal.com/docs/get-reward-details.

        Args:
            uid: The reward contract's uid.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such reward contract.
            VendorError: the call failed.
        """
        return await self._lookup.reward(check_id(uid, "uid"), self._transport.deadline(timeout))

    async def get_balance(self, reward_uid: str, user_uid: str, *, timeout: float | None = None) -> Balance:
        """Read how many tokens of a reward a user holds in the wallet inside the app.

        See https://docs.getoriginal.com/docs/get-reward-balance-by-user-uid.

        Args:
            reward_uid: The reward contract.
            user_uid: The user.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such reward contract.
            VendorError: the call failed.
        """
        reward_uid, user_uid = check_id(reward_uid, "reward_uid"), check_id(user_uid, "user_uid")
        return await self._lookup.balance(reward_uid, user_uid, self._transport.deadline(timeout))

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        """Return the ref of an allocation or a claim, of a ref (itself), or of a uid, which is taken as an allocation's.

        Raises:
            ValueError: the uid is invalid, or the operation belongs to another scope or is of another kind.
            TypeError: the argument is none of these.
        """
        if isinstance(operation, str):
            return OperationRef(self._scope, ALLOCATION, check_id(operation, "uid"))
        ref = operation if isinstance(operation, OperationRef) else getattr(operation, "ref", None)
        if not isinstance(ref, OperationRef):
            raise TypeError(f"operation: give an Allocation, a Claim, a ref or a uid, not {kind_of(operation)}.")
        if ref.scope != self._scope:
            raise ValueError(f"operation: {ref} is not of scope {self._scope!r}. Use the client of its scope.")
        if ref.kind not in MODELS:
            raise ValueError(f"operation: {ref} is neither an {ALLOCATION} nor a {CLAIM}, and Original has no other kind.")
        if not plain_id(ref.uid):
            check_id(ref.uid, "uid")
        return ref

    async def read_operation(
        self, ref: OperationRef, *, may_send: MaySend | None = None, timeout: float | None = None
    ) -> Allocation | Claim:
        """Read an allocation or a claim by its ref.

        Args:
            ref: The allocation or claim.
            may_send: Awaited just before the request is sent. If it returns False, nothing is sent. With `may_send`, nothing is
                sent while the vendor wants all calls to pause, and nothing is sent twice except after a 401.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            ConnectFailed: nothing was sent.
            NotFound: there is no such operation; one just created may not be readable yet.
            VendorError: the call failed.
            ValueError: the operation belongs to another scope or is of another kind.
        """
        ref = self.ref_of(ref)
        _check_hook(may_send, "may_send")
        read = self._lookup.allocation if ref.kind == ALLOCATION else self._lookup.claim
        return await read(ref.uid, self._transport.deadline(timeout), may_send=may_send)

    def parse_operation(self, ref: OperationRef, resource: Mapping[str, Any]) -> Allocation | Claim:
        """Build the model of an operation from the vendor's JSON object, as stored or as found in an event.

        Args:
            ref: The operation that the object should describe.
            resource: The object, with its numbers parsed exactly.

        Raises:
            UnexpectedResponse: the object is not a complete resource of that kind and uid.
            ValueError: the operation belongs to another scope or is of another kind.
        """
        ref = self.ref_of(ref)
        model: Allocation | Claim = structure(resource, MODELS[ref.kind])
        return model if model.uid == ref.uid and self._scope == DEFAULT_SCOPE else self._lookup.checked(model, ref.uid)

    def operation_of(self, event: Event) -> Allocation | Claim | None:
        """Return the allocation or claim, in its terminal status, that a webhook event carries.

        Args:
            event: The event that a handler received.

        Returns:
            The model; None if the event carries no complete one or belongs to another scope.
        """
        if event.ref is None or event.resource is None:
            return None
        try:
            return self.parse_operation(event.ref, event.resource)
        except (UnexpectedResponse, ValueError):
            return None

    conclude = staticmethod(conclude)

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


def _check_hook(hook: object, name: str) -> None:
    if hook is not None:
        check_callable(hook, name)
