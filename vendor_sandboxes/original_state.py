"""The state of the sandboxed Original: users, rewards, allocations, claims and balances."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Context, Decimal, localcontext
from random import Random
from typing import Any

from attrs import define, field

_EXACT = Context(prec=400)
_WITHDRAW_RECEIVER = "0x4881ab2f73c48a54b907a8b697b270f490768e6d"


def plain(amount: Decimal) -> str:
    """Return an amount in plain digits."""
    return format(amount, "f")


def _explorer_url(address: str) -> str:
    return f"https://amoy.polygonscan.com/address/{address}"


def timestamp(now: float, suffix: str = "Z") -> str:
    """Return a time as the vendor writes it: `Z` in resources, `+00:00` in webhooks."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + suffix


@define(kw_only=True, eq=False)
class Operation:
    """An allocation or a claim, which moves an amount of one reward of one user once it is done.

    Attributes:
        kind: `"allocation"` or `"claim"`.
        head: JSON text of the fields between status and amount.
        tail: JSON text of the fields after the amount.
        deliveries: Number of its webhooks that were answered with 2xx.
        history: Every status, in order.
    """

    kind: str
    uid: str
    reward_uid: str
    user_uid: str
    amount: Decimal
    nonce: str | None = None
    to_address: str | None = None
    committed_at: float
    head: str = field(init=False, repr=False)
    tail: str = field(init=False, repr=False)
    status: str = "pending"
    confirmed_at: float | None = None
    deliveries: int = 0
    history: list[str] = field(factory=lambda: ["pending"])

    def __attrs_post_init__(self) -> None:
        user_field = "to_user_uid" if self.kind == "allocation" else "from_user_uid"
        head = {"reward_uid": self.reward_uid, user_field: self.user_uid}
        tail = {"created_at": timestamp(self.committed_at)}
        if self.to_address is not None:
            head["to_address"] = self.to_address
        if self.nonce is not None:
            tail = {"nonce": self.nonce, **tail}
        self.head = json.dumps(head)[1:-1]
        self.tail = json.dumps(tail)[1:-1]

    def resource(self, amounts: str) -> str:
        """Return its JSON text, with the amount as `"string"` or `"number"`."""
        amount = plain(self.amount) if amounts == "number" else f'"{plain(self.amount)}"'
        return f'{{"uid": "{self.uid}", "status": "{self.status}", {self.head}, "amount": {amount}, {self.tail}}}'

    @property
    def done(self) -> bool:
        """Whether the blockchain carried it out."""
        return self.status.lower() == "done"

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        entry: dict[str, Any] = {
            "uid": self.uid,
            "reward_uid": self.reward_uid,
            "to_user_uid" if self.kind == "allocation" else "from_user_uid": self.user_uid,
            "amount": plain(self.amount),
            "status": self.status,
            "history": list(self.history),
            "committed_at": self.committed_at,
            "confirmed_at": self.confirmed_at,
            "deliveries": self.deliveries,
        }
        if self.kind == "allocation":
            entry["nonce"] = self.nonce
        else:
            entry["to_address"] = self.to_address
        return entry


@define(kw_only=True, eq=False)
class User:
    """A user of the app.

    Attributes:
        on_chain: Whether an operation of the user was carried out, which creates the wallet.
    """

    uid: str
    email: str | None
    user_external_id: str | None
    created_at: str
    on_chain: bool = False

    def resource(self) -> str:
        """Return the vendor's JSON text."""
        return json.dumps(
            {
                "uid": self.uid,
                "created_at": self.created_at,
                "email": self.email,
                "user_external_id": self.user_external_id,
                "wallets": [self._wallet()] if self.on_chain else [],
                "client_id": self.user_external_id,
            }
        )

    def _wallet(self) -> dict[str, Any]:
        address = f"0x{hashlib.sha256(self.uid.encode()).hexdigest()[:40]}"
        return {"address": address, "explorer_url": _explorer_url(address), "network": "Polygon", "chain_id": 80002}


class _Uids:
    """Twelve digits each, unique within a kind; an allocation and a claim may share one, as in the vendor's samples."""

    def __init__(self, seed: int) -> None:
        self._first = Random(f"{seed}/uids").randrange(10**11, 9 * 10**11)
        self._given: Counter[str] = Counter()

    def next(self, kind: str) -> str:
        self._given[kind] += 1
        return str(self._first + self._given[kind])


class OriginalState:
    """The state of one app; equal seeds give equal uids."""

    def __init__(self, seed: int, clock: Callable[[], float], rewards: Iterable[str]) -> None:
        self._clock = clock
        self._uids = _Uids(seed)
        self._opened = timestamp(clock())
        self.rewards = dict.fromkeys(rewards)
        self.users: dict[str, User] = {}
        self.users_by_email: dict[str, User] = {}
        self.users_by_external_id: dict[str, User] = {}
        self.operations: dict[str, dict[str, Operation]] = {"allocation": {}, "claim": {}}
        self.by_user: dict[str, dict[str, list[Operation]]] = {"allocation": {}, "claim": {}}
        self.by_nonce: dict[str, Operation] = {}
        self.asked: Counter[str] = Counter()
        self.balances: dict[tuple[str, str], Decimal] = {}

    def add_user(self, email: str | None, user_external_id: str | None) -> User | None:
        """Add a user, or return None if the e-mail address or external id is taken."""
        if (email and email in self.users_by_email) or (user_external_id and user_external_id in self.users_by_external_id):
            return None
        user = User(
            uid=self._uids.next("user"), email=email, user_external_id=user_external_id, created_at=timestamp(self._clock())
        )
        self.users[user.uid] = user
        if email:
            self.users_by_email[email] = user
        if user_external_id:
            self.users_by_external_id[user_external_id] = user
        return user

    def add_allocation(self, reward_uid: str, user_uid: str, amount: Decimal, nonce: str) -> Operation:
        """Commit an allocation."""
        allocation = Operation(
            kind="allocation",
            uid=self._uids.next("allocation"),
            reward_uid=reward_uid,
            user_uid=user_uid,
            amount=amount,
            nonce=nonce,
            committed_at=self._clock(),
        )
        self.by_nonce[nonce] = allocation
        self.rewards.setdefault(reward_uid)
        return self._keep(allocation)

    def add_claim(self, reward_uid: str, user_uid: str, to_address: str) -> Operation:
        """Commit a claim of the user's whole balance."""
        claim = Operation(
            kind="claim",
            uid=self._uids.next("claim"),
            reward_uid=reward_uid,
            user_uid=user_uid,
            amount=self.balance(reward_uid, user_uid),
            to_address=to_address,
            committed_at=self._clock(),
        )
        return self._keep(claim)

    def _keep(self, operation: Operation) -> Operation:
        self.operations[operation.kind][operation.uid] = operation
        self.by_user[operation.kind].setdefault(operation.user_uid, []).append(operation)
        return operation

    def pending(self) -> list[Operation]:
        """Return the operations that the blockchain has not settled."""
        return [each for kind in self.operations.values() for each in kind.values() if each.status == "pending"]

    def balance(self, reward_uid: str, user_uid: str) -> Decimal:
        """Return the user's balance of the reward."""
        return self.balances.get((reward_uid, user_uid), Decimal(0))

    def claiming(self, user_uid: str) -> bool:
        """Whether the user has a pending claim."""
        return any(claim.status == "pending" for claim in self.by_user["claim"].get(user_uid, ()))

    def settle(self, operation: Operation, status: str) -> None:
        """Set the status, and move the amount when the operation becomes or ceases to be done."""
        was_done = operation.done
        operation.status = status
        operation.history.append(status)
        operation.confirmed_at = self._clock()
        if operation.done and operation.user_uid in self.users:
            self.users[operation.user_uid].on_chain = True
        if operation.done != was_done:
            forward = operation.done == (operation.kind == "allocation")
            key = (operation.reward_uid, operation.user_uid)
            with localcontext(_EXACT):
                held = self.balance(*key)
                self.balances[key] = held + operation.amount if forward else held - operation.amount

    def reward_resource(self, uid: str) -> str:
        """Return the vendor's JSON text of a reward contract."""
        address = f"0x{int(uid) if uid.isdecimal() else 0:040x}"
        return json.dumps(
            {
                "uid": uid,
                "name": f"Sandbox reward {uid}",
                "status": "deployed",
                "token_type": "ERC20",
                "token_name": "TestnetORI",
                "created_at": self._opened,
                "contract_address": address,
                "withdraw_receiver": _WITHDRAW_RECEIVER,
                "description": "Reward contract of the sandbox",
                "chain": "Amoy",
                "chain_id": 80002,
                "network": "Amoy",
                "explorer_url": _explorer_url(address),
            }
        )

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
            "users": list(self.users),
        }
