"""The state of the sandboxed Original: rewards, allocations, claims and balances, beside users and assets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Context, Decimal, localcontext
from typing import TYPE_CHECKING, Any

from attrs import define, field

from vendor_sandboxes.original_assets import Assets
from vendor_sandboxes.original_operations import Operation, Operations, timestamp
from vendor_sandboxes.original_users import CHAIN_ID, NETWORK, User, Users, explorer_url

if TYPE_CHECKING:
    from vendor_sandboxes.options import OriginalOptions

_EXACT = Context(prec=400)
_WITHDRAW_RECEIVER = "0x4881ab2f73c48a54b907a8b697b270f490768e6d"


def plain(amount: Decimal) -> str:
    """Return an amount in plain digits."""
    return format(amount, "f")


@define(kw_only=True, eq=False)
class Payment(Operation):
    """An allocation or a claim, which moves an amount of one reward of one user once it is done.

    Attributes:
        kind: `"allocation"` or `"claim"`.
        head: JSON text of the fields between status and amount.
        tail: JSON text of the fields after the amount.
    """

    reward_uid: str
    user_uid: str
    amount: Decimal
    nonce: str | None = None
    to_address: str | None = None
    head: str = field(init=False, repr=False)
    tail: str = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        Operation.__attrs_post_init__(self)
        user_field = "to_user_uid" if self.kind == "allocation" else "from_user_uid"
        head = {"reward_uid": self.reward_uid, user_field: self.user_uid}
        tail = {"created_at": timestamp(self.committed_at)}
        if self.to_address is not None:
            head["to_address"] = self.to_address
        if self.nonce is not None:
            tail = {"nonce": self.nonce, **tail}
        self.head = json.dumps(head)[1:-1]
        self.tail = json.dumps(tail)[1:-1]

    def resource(self, options: OriginalOptions, _now: float, /) -> str:
        """Return the vendor's JSON text."""
        amount = plain(self.amount) if options.amounts == "number" else f'"{plain(self.amount)}"'
        return f'{{"uid": "{self.uid}", "status": "{self.status}", {self.head}, "amount": {amount}, {self.tail}}}'

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        claimed = self.kind == "claim"
        return {
            **self.course(),
            "reward_uid": self.reward_uid,
            "from_user_uid" if claimed else "to_user_uid": self.user_uid,
            "amount": plain(self.amount),
            **({"to_address": self.to_address} if claimed else {"nonce": self.nonce}),
        }


@define(kw_only=True, eq=False)
class Reward(Operation):
    """A reward contract, which is settled once it is deployed."""

    kind: str = "reward"

    def resource(self, _options: OriginalOptions, _now: float, /) -> str:
        """Return the vendor's JSON text."""
        address = f"0x{int(self.uid) if self.uid.isdecimal() else 0:040x}"
        return json.dumps(
            {
                "uid": self.uid,
                "name": f"Sandbox reward {self.uid}",
                "status": self.status,
                "token_type": "ERC20",
                "token_name": "TestnetORI",
                "created_at": timestamp(self.committed_at),
                "contract_address": address if self.done else None,
                "withdraw_receiver": _WITHDRAW_RECEIVER,
                "description": "Reward contract of the sandbox",
                "chain": NETWORK,
                "chain_id": CHAIN_ID,
                "network": NETWORK,
                "explorer_url": explorer_url(address) if self.done else None,
            }
        )

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        return self.course()


class OriginalState:
    """The state of one app; equal seeds give equal uids."""

    def __init__(self, seed: int, clock: Callable[[], float], rewards: Iterable[str], collections: Iterable[str]) -> None:
        self._clock = clock
        self._opened = clock()
        self._operations = Operations(seed, clock)
        self.operations = self._operations.by_uid
        self.by_user = self._operations.by_user
        self.users = Users(clock, self._operations.next_uid)
        self.assets = Assets(self._operations, self.users, collections)
        self.by_nonce: dict[str, Payment] = {}
        self.asked: Counter[str] = Counter()
        self.balances: dict[tuple[str, str], Decimal] = {}
        for uid in rewards:
            self.add_reward(uid, "deployed")

    @property
    def rewards(self) -> dict[str, Reward]:
        """The reward contracts, by uid."""
        return self.operations["reward"]

    def add_user(self, email: str | None, user_external_id: str | None) -> User | None:
        """Add a user, or return None if the e-mail address or external id is taken."""
        return self.users.add(email, user_external_id)

    def add_reward(self, uid: str, status: str) -> Reward:
        """Add a reward contract that is `"deployed"` or `"deploying"`."""
        reward = Reward(uid=uid, committed_at=self._opened if status == "deployed" else self._clock(), status=status)
        self._operations.keep(reward)
        return reward

    def add_allocation(self, reward_uid: str, user_uid: str, amount: Decimal, nonce: str) -> Payment:
        """Commit an allocation."""
        allocation = Payment(
            kind="allocation",
            uid=self._operations.next_uid("allocation"),
            reward_uid=reward_uid,
            user_uid=user_uid,
            amount=amount,
            nonce=nonce,
            committed_at=self._clock(),
        )
        self.by_nonce[nonce] = allocation
        if reward_uid not in self.rewards:
            self.add_reward(reward_uid, "deployed")
        self._operations.keep(allocation, user_uid)
        return allocation

    def add_claim(self, reward_uid: str, user_uid: str, to_address: str) -> Payment:
        """Commit a claim of the user's whole balance."""
        claim = Payment(
            kind="claim",
            uid=self._operations.next_uid("claim"),
            reward_uid=reward_uid,
            user_uid=user_uid,
            amount=self.balance(reward_uid, user_uid),
            to_address=to_address,
            committed_at=self._clock(),
        )
        self._operations.keep(claim, user_uid)
        return claim

    def pending(self) -> list[Operation]:
        """Return the operations that the blockchain has not settled."""
        return self._operations.pending()

    def balance(self, reward_uid: str, user_uid: str) -> Decimal:
        """Return the user's balance of the reward."""
        return self.balances.get((reward_uid, user_uid), Decimal(0))

    def claiming(self, user_uid: str) -> bool:
        """Whether the user has a pending claim."""
        return any(claim.pending for claim in self.by_user["claim"].get(user_uid, ()))

    def settle(self, operation: Operation, status: str) -> None:
        """Settle an operation.

        Raises:
            ValueError: the operation cannot come to this end; see `Assets.settle`.
        """
        if isinstance(operation, Payment):
            self._settle_payment(operation, status)
        else:
            self.assets.settle(operation, status)

    def _settle_payment(self, payment: Payment, status: str) -> None:
        """Set the status, and move the amount when the payment becomes or ceases to be done."""
        was_done = payment.done
        payment.settle(status, self._clock())
        if payment.done:
            self.users.open_wallet(payment.user_uid)
        if payment.done != was_done:
            forward = payment.done == (payment.kind == "allocation")
            key = (payment.reward_uid, payment.user_uid)
            with localcontext(_EXACT):
                held = self.balance(*key)
                self.balances[key] = held + payment.amount if forward else held - payment.amount

    def report(self) -> dict[str, Any]:
        """Return everything as plain JSON values, amounts as exact strings."""
        allocations = self.operations["allocation"].values()
        return {
            "allocations": [allocation.entry() for allocation in allocations],
            "claims": [claim.entry() for claim in self.operations["claim"].values()],
            "created": Counter(allocation.nonce for allocation in allocations),
            "asked": dict(self.asked),
            "balances": [
                {"reward_uid": reward_uid, "user_uid": user_uid, "amount": plain(amount)}
                for (reward_uid, user_uid), amount in self.balances.items()
            ],
            "users": list(self.users.by_uid),
            "rewards": [reward.entry() for reward in self.rewards.values()],
            **self.assets.report(),
        }
