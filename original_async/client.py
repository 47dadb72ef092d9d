"""The client: the reward family of Original, under the names of the vendor's own SDK."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack

import orjson

from original_async.auth import Tokens
from original_async.conclusion import conclude
from original_async.errors import read_refusal
from original_async.models import ALLOCATION, CLAIM, Allocation, Claim
from original_async.nonces import Wanted, reconcile
from original_async.reading import MODELS, READ_PATHS, Reader, read_created
from original_async.settings import check_choice, find_base_url, options_from
from vendor_http.arguments import check_amount, check_id, check_key
from vendor_http.calls import Answer, Effect, Refusal, Request
from vendor_http.errors import Forbidden, OutcomeUnknown, RateLimited, RequestRejected, Unauthorized
from vendor_http.operations import DEFAULT_SCOPE, Operation, OperationRef, OperationStatus
from vendor_http.transport import Transport

if TYPE_CHECKING:
    from types import TracebackType

    from original_async.models import Balance, Reward
    from original_async.settings import AmountAs, ClientOptions, Environment, ReadPath
    from vendor_http.limits import Limits
    from vendor_http.retry import RetryPolicy, Timeouts
    from vendor_http.transport import Session


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

    Raises:
        ValueError: an argument cannot be what it should; the text says what to give.
        TypeError: an argument has another type.
    """

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
        _clock: Callable[[], float] = time.monotonic,
        _sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        _random: Callable[[], float] = random.random,
        _now: Callable[[], float] = time.time,
    ) -> None:
        check_choice(read_path, ("auto", *READ_PATHS), "read_path")
        check_choice(amount_as, ("string", "number"), "amount_as")
        self._base_url = find_base_url(environment, base_url, allow_insecure=allow_insecure)
        self._scope = check_id(scope, "scope")
        self._amount_as_number = amount_as == "number"
        self._tokens = Tokens(api_key, api_secret, lifetime=token_lifetime, now=_now)
        self._transport = Transport(
            vendor="Original",
            base_url=self._base_url,
            authorizer=self._tokens,
            refusal=self._refusal,
            session=session,
            timeouts=timeouts,
            retry=retry,
            limits=limits,
            observers=observers,
            clock=_clock,
            sleep=_sleep,
            random=_random,
            now=_now,
        )
        self._reader = Reader(self._transport, self._scope, None if read_path == "auto" else read_path)
        self._allocate_url = self._transport.url("reward", "allocate")
        self._claim_url = self._transport.url("reward", "claim")

    @classmethod
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
        self, *, reward_uid: str, to_user_uid: str, amount: str | int | Decimal, nonce: str
    ) -> Allocation:
        """Allocate tokens of a reward to a user; the chain carries it out later.

        The call repeats itself with the same bytes. If the vendor refuses, or no answer says what happened, the user's
        allocations are searched for the nonce, so that the same call may be made again at any time with the same nonce. See
        https://docs.getoriginal.com/docs/allocate-rewards.

        Args:
            reward_uid: The reward contract.
            to_user_uid: The user who will be able to claim the tokens.
            amount: How many, above 0, with up to 60 digits and up to 30 decimals; never a float.
            nonce: Names this payout for ever; made once, kept before the call, the same in every repetition.

        Returns:
            The allocation, `pending`; or as it stands by now, with `recovered=True`, if it was found by its nonce.

        Raises:
            ValueError: an argument cannot be what it should; nothing was sent.
            TypeError: an argument has another type; nothing was sent.
            Conflict: the nonce is held by an allocation with another reward or amount.
            Unauthorized, Forbidden, RateLimited: the vendor refused the caller; this call did nothing, and what an earlier one
                did under the nonce was not looked up.
            RequestRejected: the vendor refused, and holds nothing under the nonce.
            ConnectFailed: nothing was sent by this call.
            OutcomeUnknown: it may have been carried out.
            ClientClosed: the client is closed, or used from another loop or process; nothing was sent by this call.
        """
        reward_uid, to_user_uid = check_id(reward_uid, "reward_uid"), check_id(to_user_uid, "to_user_uid")
        digits, nonce = check_amount(amount), check_key(nonce, "nonce")
        content = {
            "reward_uid": reward_uid,
            "to_user_uid": to_user_uid,
            "amount": orjson.Fragment(digits) if self._amount_as_number else digits,
            "nonce": nonce,
        }
        transport = self._transport
        deadline = transport.deadline()
        trouble: RequestRejected | OutcomeUnknown
        try:
            created = await transport.call(
                Request(
                    operation="create_allocation",
                    method="POST",
                    url=self._allocate_url,
                    effect=Effect.KEYED,
                    read=read_created,
                    body=orjson.dumps(content),
                    key=nonce,
                    deadline=deadline,
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
        return await reconcile(
            Wanted(reward_uid=reward_uid, to_user_uid=to_user_uid, amount=Decimal(digits), nonce=nonce),
            trouble,
            look_up=partial(self._reader.under_nonce, to_user_uid, nonce, deadline),
            clock=transport.clock,
            started=deadline - transport.timeouts.total,
            deadline=deadline,
            sleep=transport.sleep,
        )

    async def get_allocation(self, uid: str) -> Allocation:
        """Read one allocation.

        Raises:
            NotFound: the vendor knows none of that uid; a new one may not be readable yet.
            VendorError: as every read.
        """
        return await self._reader.allocation(check_id(uid, "uid"))

    async def get_allocations_by_user_uid(self, user_uid: str) -> list[Allocation]:
        """Read all allocations to a user; an unknown user has none.

        Raises:
            VendorError: as every read.
        """
        return await self._reader.allocations(check_id(user_uid, "user_uid"))

    async def find_allocation(self, to_user_uid: str, nonce: str, reward_uid: str | None = None) -> Allocation | None:
        """Look an allocation up by its nonce, among those of its user; a new one may not be listed yet.

        Args:
            to_user_uid: The user it was made for.
            nonce: The nonce it was made with.
            reward_uid: Only of this reward contract, if given.

        Returns:
            The allocation, None if the list shows none.

        Raises:
            VendorError: as every read.
        """
        wanted = None if reward_uid is None else check_id(reward_uid, "reward_uid")
        held = await self._reader.under_nonce(check_id(to_user_uid, "to_user_uid"), check_key(nonce, "nonce"))
        return next((each for each in held if wanted in {None, each.reward_uid}), None)

    async def create_claim(self, *, reward_uid: str, from_user_uid: str, to_address: str) -> Claim:
        """Move a user's tokens of a reward to a wallet outside; the chain carries it out later.

        A claim has no nonce, so it is never sent twice: without an answer it ends as `OutcomeUnknown`. See
        https://docs.getoriginal.com/docs/claim-rewards.

        Args:
            reward_uid: The reward contract.
            from_user_uid: The user who claims.
            to_address: The wallet that receives the tokens.

        Returns:
            The claim, `pending`, its amount not yet known.

        Raises:
            ValueError: an argument cannot be what it should; nothing was sent.
            TypeError: an argument has another type; nothing was sent.
            RequestRejected: the vendor refused.
            ConnectFailed: nothing was sent.
            OutcomeUnknown: it may have been carried out; look among `get_claims_by_user_uid`.
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
                body=orjson.dumps(content),
                deadline=self._transport.deadline(),
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

    async def get_claim(self, uid: str) -> Claim:
        """Read one claim.

        Raises:
            NotFound: the vendor knows none of that uid; a new one may not be readable yet.
            VendorError: as every read.
        """
        return await self._reader.claim(check_id(uid, "uid"))

    async def get_claims_by_user_uid(self, user_uid: str) -> list[Claim]:
        """Read all claims of a user; an unknown user has none.

        Raises:
            VendorError: as every read.
        """
        return await self._reader.claims(check_id(user_uid, "user_uid"))

    async def get_reward(self, uid: str) -> Reward:
        """Read one reward contract.

        Raises:
            NotFound: the vendor knows none of that uid.
            VendorError: as every read.
        """
        return await self._reader.reward(check_id(uid, "uid"))

    async def get_balance(self, reward_uid: str, user_uid: str) -> Balance:
        """Read what a user holds of a reward in the wallet inside the app.

        Raises:
            NotFound: the vendor knows no such reward.
            VendorError: as every read.
        """
        return await self._reader.balance(check_id(reward_uid, "reward_uid"), check_id(user_uid, "user_uid"))

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
            raise TypeError(f"operation: expected an Allocation, a Claim, a ref or a uid, got {type(operation).__name__}")
        if ref.scope != self._scope:
            raise ValueError(f"operation: expected one of scope {self._scope!r}, got {ref}; ask the client of that scope")
        if ref.kind not in MODELS:
            raise ValueError(f"operation: expected an {ALLOCATION} or a {CLAIM}, got {ref}; Original has no other kind")
        check_id(ref.uid, "uid")
        return ref

    async def read_operation(self, ref: OperationRef) -> Allocation | Claim:
        """Ask the vendor how an allocation or claim stands.

        Raises:
            NotFound: the vendor knows no such operation; a new one may not be readable yet.
            ValueError: it is of another scope or kind.
            VendorError: as every read.
        """
        ref = self.ref_of(ref)
        return await (self.get_allocation(ref.uid) if ref.kind == ALLOCATION else self.get_claim(ref.uid))

    def parse_operation(self, ref: OperationRef, resource: Mapping[str, Any]) -> Allocation | Claim:
        """Build the model from the vendor's JSON object, as kept in a store or found in an event.

        Args:
            ref: The operation it should be.
            resource: The object, its numbers parsed exactly.

        Raises:
            UnexpectedResponse: the object is not a complete resource of that kind and uid.
            ValueError: the operation is of another scope or kind.
        """
        return self._reader.parse(self.ref_of(ref), resource)

    def conclude(self, asked: Operation | None, final: Operation) -> Operation:
        """Return the terminal operation if it is done and is what was asked for.

        Args:
            asked: The operation as it was created here, or None if only its ref is known.
            final: The operation in a terminal status.

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

    def _refusal(self, answer: Answer) -> Refusal:
        return read_refusal(answer, self._tokens.secrets())
