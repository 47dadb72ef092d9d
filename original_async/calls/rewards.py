"""The calls about rewards: allocations, claims, reward contracts and balances."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from original_async.calls.base import Calls, check_hook
from original_async.calls.reading import data_of, read_created
from original_async.calls.reconciling import Rules
from original_async.models.rewards import Allocation, AllocationRequest, Balance, Claim, ClaimRequest, Reward
from rewards_core.http.messages import Effect, Request
from rewards_core.http.refusals import affirms_existence
from rewards_core.json import dumps, number_of
from rewards_core.operations import OperationStatus
from rewards_core.validation import check_amount, check_flag, check_id, check_key

if TYPE_CHECKING:
    from original_async.calls.pages import Listing
    from original_async.calls.read_paths import AllocationReader
    from original_async.calls.reading import BeforePage


def _excludes(asked: AllocationRequest, found: Allocation, sure: bool) -> bool:
    """Return whether an allocation under the nonce excludes that the request was carried out.

    The scope of a nonce (app, reward or user) is not documented: where an attempt may have arrived, only an allocation of the
    same reward to the same user proves that.
    """
    return sure or (found.reward_uid, found.to_user_uid) == (asked.reward_uid, asked.to_user_uid)


ALLOCATE = Rules(
    call="create_allocation",
    noun="allocation",
    key="nonce",
    about=("nonce", "allocat"),
    advice=(
        "wait for this error with Completions.wait, or repeat the call with the same nonce and repeated=True; "
        "never use another nonce for it"
    ),
    believes=False,
    reuse="use each nonce for one payout only",
    describe=lambda held: f"of {held.amount} from {held.reward_uid}",
    excludes=_excludes,
)


class RewardCalls(Calls):
    """Allocate and claim rewards, and read what the vendor holds of them."""

    _allocations: AllocationReader
    _amount_as_number: bool

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
        body = {
            "reward_uid": reward_uid,
            "to_user_uid": to_user_uid,
            "amount": number_of(digits) if self._amount_as_number else digits,
            "nonce": nonce,
        }

        def asked() -> AllocationRequest:
            amount = Decimal(digits)
            return AllocationRequest(
                reward_uid=reward_uid, to_user_uid=to_user_uid, amount=amount, nonce=nonce, scope=self._scope
            )

        def build(created: dict[str, Any]) -> Allocation:
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

        async def look_up(deadline: float) -> Listing[Allocation]:
            return await self._allocations.by_nonce(to_user_uid, (nonce,), deadline)

        return await self._write(
            ALLOCATE,
            nonce,
            dumps(body),
            self._fixed_url("reward", "allocate"),
            effect=Effect.KEYED,
            asked=asked,
            build=build,
            look_up=look_up,
            repeated=repeated,
            timeout=timeout,
        )

    async def get_allocation(self, uid: str, *, timeout: float | None = None) -> Allocation:
        """Read one allocation; see https://docs.getoriginal.com/docs/get-allocation-details-by-uid.

        Args:
            uid: The allocation's uid.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such allocation; one just created may not be readable yet.
            VendorError: the call failed.
        """
        return await self._allocations.one(check_id(uid, "uid"), self._transport.deadline(timeout))

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
        check_hook(before_page, "before_page")
        return (await self._allocations.all(user_uid, self._transport.deadline(timeout), before_page=before_page)).all()

    async def find_allocation(
        self, to_user_uid: str, *, nonce: str, reward_uid: str | None = None, timeout: float | None = None
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
        listing = await self._allocations.by_nonce(user_uid, (nonce,), self._transport.deadline(timeout))
        held = next((each for each in listing.found if wanted in {None, each.reward_uid}), None)
        if held is None:
            listing.all()
        return held

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
                url=self._fixed_url("reward", "claim"),
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
        return await self._reader.one(
            "get_claim", Claim, check_id(uid, "uid"), self._transport.deadline(timeout), "reward", "claim"
        )

    async def get_claims_by_user_uid(
        self, user_uid: str, *, before_page: BeforePage | None = None, timeout: float | None = None
    ) -> list[Claim]:
        """Read all claims of a user, over all pages; an unknown user has none.

        See https://docs.getoriginal.com/docs/get-list-of-claims-by-user-uid.

        Args:
            user_uid: The user.
            before_page: Awaited before each further page, which then has the client's whole `timeouts.total`.
            timeout: Seconds for this call including all pages, above 0; by default the client's `timeouts.total`.

        Raises:
            UnexpectedResponse: the list is incomplete: the vendor says that there are more claims than it shows.
            VendorError: the call failed.
        """
        user_uid, deadline = check_id(user_uid, "user_uid"), self._transport.deadline(timeout)
        check_hook(before_page, "before_page")
        path = ("reward", "claim")
        return (await self._reader.all("get_claims_by_user_uid", Claim, user_uid, deadline, *path, before_page=before_page)).all()

    async def get_reward(self, uid: str, *, timeout: float | None = None) -> Reward:
        """Read a reward contract; see https://docs.getoriginal.com/docs/get-reward-details.

        Args:
            uid: The reward contract's uid.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such reward contract.
            VendorError: the call failed.
        """
        return await self._reader.one("get_reward", Reward, check_id(uid, "uid"), self._transport.deadline(timeout), "reward")

    async def get_balance(self, reward_uid: str, *, user_uid: str, timeout: float | None = None) -> Balance:
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
        return await self._reader.get(
            "get_balance",
            partial(data_of, Balance),
            self._transport.deadline(timeout),
            "reward",
            "balance",
            query={"reward_uid": reward_uid, "user_uid": user_uid},
        )
