"""Allocations and claims, which the blockchain confirms later, reward contracts and balances.

Field names are the vendor's. See https://docs.getoriginal.com/docs/get-allocation-details-by-uid,
https://docs.getoriginal.com/docs/get-reward-details and https://docs.getoriginal.com/docs/get-reward-balance-by-user-uid.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime  # noqa: TC003 - cattrs reads the annotations
from decimal import Decimal
from typing import Any

from attrs import field, frozen

from original_async.kinds import ALLOCATION, CLAIM, REWARD
from original_async.models.fields import DeploymentStatus, Unkeyed, ours_field, raw_field, scope_field, text_field
from rewards_core.operations import DEFAULT_SCOPE, Operation, OperationRef, OperationStatus
from rewards_core.validation import check_instance, checked


@frozen(kw_only=True)
class Allocation:
    """Tokens of a reward allocated to a user.

    Attributes:
        uid: The vendor's id, 12 digits in all samples.
        status: `pending`, `done` or `failed`; an unknown status is kept as its text.
        reward_uid: The reward contract.
        to_user_uid: The user who can claim the tokens.
        amount: The number of tokens, exact.
        nonce: The caller's idempotency key.
        created_at: When the vendor created it; None until it was read.
        recovered: Whether it was found by its nonce, after a call whose outcome was unknown.
        scope: The scope of the client that it belongs to.
        raw: The vendor's JSON object, unknown keys included.
    """

    uid: str
    status: OperationStatus
    reward_uid: str
    to_user_uid: str
    amount: Decimal
    nonce: str
    created_at: datetime | None = None
    recovered: bool = ours_field()
    scope: str = scope_field()
    raw: Mapping[str, Any] = raw_field()

    @property
    def ref(self) -> OperationRef:
        """Its scope, kind and uid: the name by which stores and `Completions` know it."""
        return OperationRef(self.scope, ALLOCATION, self.uid)

    @property
    def key(self) -> str:
        """The nonce."""
        return self.nonce


@frozen(kw_only=True)
class AllocationRequest:
    """What `create_allocation` was asked for: the `request` of its `OutcomeUnknown`.

    Attributes:
        reward_uid: The reward contract.
        to_user_uid: The user who can claim the tokens.
        amount: The number of tokens, exact.
        nonce: The idempotency key.
        scope: The scope of the client.

    Raises:
        TypeError: an attribute has the wrong type.
    """

    reward_uid: str = text_field()
    to_user_uid: str = text_field()
    amount: Decimal = field(validator=checked(check_instance, Decimal))
    nonce: str = text_field()
    scope: str = text_field(default=DEFAULT_SCOPE)

    @property
    def kind(self) -> str:
        """`"allocation"`."""
        return ALLOCATION

    @property
    def key(self) -> str:
        """The nonce."""
        return self.nonce

    @property
    def owner(self) -> str:
        """The user whose allocations are listed to find it."""
        return self.to_user_uid

    def is_met_by(self, operation: Operation) -> bool:
        """Return whether an operation is an allocation with the same nonce, reward, user and amount."""
        return isinstance(operation, Allocation) and (
            operation.nonce == self.nonce
            and operation.reward_uid == self.reward_uid
            and operation.to_user_uid == self.to_user_uid
            and operation.amount == self.amount
        )


@frozen(kw_only=True)
class ClaimRequest:
    """What `create_claim` was asked for: the `request` of its `OutcomeUnknown`. It has no key to find the claim by.

    Attributes:
        reward_uid: The reward contract.
        from_user_uid: The user who claims.
        to_address: The external wallet that receives the tokens.
        scope: The scope of the client.

    Raises:
        TypeError: an attribute has the wrong type.
    """

    reward_uid: str = text_field()
    from_user_uid: str = text_field()
    to_address: str = text_field()
    scope: str = text_field(default=DEFAULT_SCOPE)


@frozen(kw_only=True)
class Claim(Unkeyed):
    """A user's tokens of a reward, moved to an external wallet.

    Attributes:
        uid: The vendor's id, 12 digits in all samples.
        status: `pending`, `done` or `failed`; an unknown status is kept as its text.
        reward_uid: The reward contract.
        from_user_uid: The user who claims.
        to_address: The external wallet that receives the tokens.
        amount: The number of tokens, exact; None until the vendor says.
        created_at: When the vendor created it; None until it was read.
        scope: The scope of the client that it belongs to.
        raw: The vendor's JSON object, unknown keys included.
    """

    uid: str
    status: OperationStatus
    reward_uid: str
    from_user_uid: str
    to_address: str
    amount: Decimal | None = None
    created_at: datetime | None = None
    scope: str = scope_field()
    raw: Mapping[str, Any] = raw_field()

    @property
    def ref(self) -> OperationRef:
        """Its scope, kind and uid: the name by which stores and `Completions` know it."""
        return OperationRef(self.scope, CLAIM, self.uid)


@frozen(kw_only=True)
class Reward(Unkeyed):
    """A reward contract. While it is `deploying`, `Completions` can wait for it.

    Attributes:
        uid: The vendor's id, 12 digits in all samples.
        name: The name in the console.
        status: `deploying` or `deployed`; an unknown status is kept as its text.
        token_type: Such as `"ERC20"`.
        token_name: Such as `"TestnetORI"`.
        created_at: When the vendor created it.
        contract_address: Its address on the blockchain; None until it is deployed.
        withdraw_receiver: Who receives the remaining tokens when it is closed.
        description: The description in the console.
        chain: The blockchain, such as `"Polygon"`.
        chain_id: The blockchain's number.
        network: The blockchain's network.
        explorer_url: Its page in a blockchain explorer.
        scope: The scope of the client that it belongs to.
        raw: The vendor's JSON object, unknown keys included.
    """

    uid: str
    name: str
    status: DeploymentStatus
    token_type: str
    token_name: str
    created_at: datetime | None = None
    contract_address: str | None = None
    withdraw_receiver: str | None = None
    description: str | None = None
    chain: str | None = None
    chain_id: int | None = None
    network: str | None = None
    explorer_url: str | None = None
    scope: str = scope_field()
    raw: Mapping[str, Any] = raw_field()

    @property
    def ref(self) -> OperationRef:
        """Its scope, kind and uid: the name by which stores and `Completions` know it."""
        return OperationRef(self.scope, REWARD, self.uid)


@frozen(kw_only=True)
class Balance:
    """How many tokens of a reward a user holds in the wallet inside the app.

    Attributes:
        reward_uid: The reward contract.
        user_uid: The user.
        amount: The number of tokens, exact.
        raw: The vendor's JSON object, unknown keys included.
    """

    reward_uid: str
    user_uid: str
    amount: Decimal
    raw: Mapping[str, Any] = raw_field()
