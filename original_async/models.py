"""What Original holds: allocations and claims, which the chain finishes later, reward contracts and balances.

Field names are the vendor's. See https://docs.getoriginal.com/docs/get-allocation-details-by-uid and its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime  # noqa: TC003 - cattrs reads the annotations
from decimal import Decimal
from typing import Any

from attrs import field, frozen

from rewards_core.json import OURS
from rewards_core.operations import DEFAULT_SCOPE, OpenEnum, Operation, OperationRef, OperationStatus
from rewards_core.validation import check_instance, check_str, checked

ALLOCATION = "allocation"
"""The kind of an allocation's ref."""
CLAIM = "claim"
"""The kind of a claim's ref."""


class RewardStatus(OpenEnum):
    """How far a reward contract has come; a word not listed here is kept."""

    DEPLOYING = "deploying"
    DEPLOYED = "deployed"


def _raw() -> Any:
    return field(factory=dict, eq=False, repr=False)


def _text(**options: Any) -> Any:
    return field(validator=checked(check_str), **options)


@frozen(kw_only=True)
class Allocation:
    """Tokens of a reward allocated to a user.

    Attributes:
        uid: The vendor's id of it.
        status: How far the chain has come.
        reward_uid: The reward contract.
        to_user_uid: The user who can claim the tokens.
        amount: How many, with every digit.
        nonce: The idempotency key it was made with.
        created_at: When the vendor made it; None as long as only its uid is known.
        recovered: Whether it was found by its nonce after an answer that did not say what happened.
        scope: The app it belongs to.
        raw: The vendor's own JSON object, unknown keys included.
    """

    uid: str
    status: OperationStatus
    reward_uid: str
    to_user_uid: str
    amount: Decimal
    nonce: str
    created_at: datetime | None = None
    recovered: bool = field(default=False, metadata=OURS)
    scope: str = field(default=DEFAULT_SCOPE, metadata=OURS)
    raw: Mapping[str, Any] = _raw()

    @property
    def ref(self) -> OperationRef:
        """The name under which outcomes, waiters and pending lists know it."""
        return OperationRef(self.scope, ALLOCATION, self.uid)

    @property
    def key(self) -> str:
        """The nonce."""
        return self.nonce


@frozen(kw_only=True)
class AllocationRequest:
    """What `create_allocation` was asked for; an `OutcomeUnknown` carries it.

    Attributes:
        reward_uid: The reward contract.
        to_user_uid: The user who can claim the tokens.
        amount: How many, with every digit.
        nonce: The idempotency key.
        scope: The app it belongs to.

    Raises:
        TypeError: an attribute is of another type.
    """

    reward_uid: str = _text()
    to_user_uid: str = _text()
    amount: Decimal = field(validator=checked(check_instance, Decimal))
    nonce: str = _text()
    scope: str = _text(default=DEFAULT_SCOPE)

    @property
    def kind(self) -> str:
        """The kind of what it asks for: an allocation."""
        return ALLOCATION

    @property
    def key(self) -> str:
        """The nonce."""
        return self.nonce

    @property
    def owner(self) -> str:
        """The user, whose allocations are listed to find it."""
        return self.to_user_uid

    def is_met_by(self, operation: Operation) -> bool:
        """Return whether an operation is the allocation that was asked for: same nonce, reward, user and amount."""
        return isinstance(operation, Allocation) and (
            operation.nonce == self.nonce
            and operation.reward_uid == self.reward_uid
            and operation.to_user_uid == self.to_user_uid
            and operation.amount == self.amount
        )


@frozen(kw_only=True)
class ClaimRequest:
    """What `create_claim` was asked for; it has no key to find it by.

    Attributes:
        reward_uid: The reward contract.
        from_user_uid: The user who claims.
        to_address: The wallet that receives the tokens.
        scope: The app it belongs to.

    Raises:
        TypeError: an attribute is of another type.
    """

    reward_uid: str = _text()
    from_user_uid: str = _text()
    to_address: str = _text()
    scope: str = _text(default=DEFAULT_SCOPE)


@frozen(kw_only=True)
class Claim:
    """A user's tokens of a reward moved to a wallet outside.

    Attributes:
        uid: The vendor's id of it.
        status: How far the chain has come.
        reward_uid: The reward contract.
        from_user_uid: The user who claims.
        to_address: The wallet that receives the tokens.
        amount: How many, with every digit; None as long as the vendor does not say.
        created_at: When the vendor made it; None as long as only its uid is known.
        scope: The app it belongs to.
        raw: The vendor's own JSON object, unknown keys included.
    """

    uid: str
    status: OperationStatus
    reward_uid: str
    from_user_uid: str
    to_address: str
    amount: Decimal | None = None
    created_at: datetime | None = None
    scope: str = field(default=DEFAULT_SCOPE, metadata=OURS)
    raw: Mapping[str, Any] = _raw()

    @property
    def ref(self) -> OperationRef:
        """The name under which outcomes, waiters and pending lists know it."""
        return OperationRef(self.scope, CLAIM, self.uid)

    @property
    def key(self) -> None:
        """None: a claim has no idempotency key."""
        return None

    @property
    def recovered(self) -> bool:
        """False: without a key it cannot be found again."""
        return False


@frozen(kw_only=True)
class Reward:
    """A reward contract.

    Attributes:
        uid: The vendor's id of it.
        name: Its name in the console.
        status: Whether it is deployed.
        token_type: Such as `"ERC20"`.
        token_name: Such as `"TestnetORI"`.
        created_at: When the vendor made it.
        contract_address: Where it is on the chain; None until it is deployed.
        withdraw_receiver: Who receives what is left when it is closed.
        description: Its description in the console.
        chain: Such as `"Polygon"`.
        chain_id: The chain's number.
        network: The chain's network.
        explorer_url: A page that shows it.
        raw: The vendor's own JSON object, unknown keys included.
    """

    uid: str
    name: str
    status: RewardStatus
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
    raw: Mapping[str, Any] = _raw()


@frozen(kw_only=True)
class Balance:
    """What a user holds of a reward in the wallet inside the app.

    Attributes:
        reward_uid: The reward contract.
        user_uid: The user.
        amount: How many tokens, with every digit.
        raw: The vendor's own JSON object, unknown keys included.
    """

    reward_uid: str
    user_uid: str
    amount: Decimal
    raw: Mapping[str, Any] = _raw()
