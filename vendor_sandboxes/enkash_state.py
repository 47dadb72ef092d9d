"""The state of the sandboxed EnKash: events, allocations, balances and funds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, frozen

_CONFIGURATIONS = ("DEFAULT", "CUSTOM")
_MAX_AMOUNT = 2**63 - 1
_NO_FUNDS = "Insufficient balance in card account"
_ALLOCATED = "Successfully allocated enkash Coins"


class Failed(Exception):
    """The request is answered with this failure; its status is 200 if the request itself was correct."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@define(kw_only=True, eq=False)
class CoinEvent:
    """The coins of one event of a company."""

    coin_config_id: str
    configuration: str
    company_id: str
    event: str
    amount: int

    def payload(self, *, with_company: bool = True) -> dict[str, Any]:
        """Return the vendor's object; the answer to an update omits the company."""
        company = {"companyId": self.company_id} if with_company else {}
        head = {"coinConfigId": self.coin_config_id, "configuration": self.configuration}
        return {**head, **company, "event": self.event, "amount": self.amount}


@frozen(kw_only=True)
class Credit:
    """Coins that a user received."""

    request_id: str
    user_id: str
    company_id: str
    event: str
    amount: int
    at: float

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        return {
            "requestId": self.request_id,
            "userId": self.user_id,
            "companyId": self.company_id,
            "event": self.event,
            "amount": self.amount,
            "at": self.at,
        }


class Coins:
    """The events, allocations and balances of all companies; `funds` is None for no limit."""

    def __init__(self, first_config: int, clock: Callable[[], float], funds: int | None) -> None:
        self._clock = clock
        self._next_config = first_config
        self.funds = funds
        self.events: dict[str, CoinEvent] = {}
        self.credits: list[Credit] = []
        self.balances: Counter[str] = Counter()
        self._by_name: dict[tuple[str, str], CoinEvent] = {}
        self._request_ids: set[str] = set()

    def event(self, coin_config_id: str) -> CoinEvent:
        """Return an event, or raise `Failed`."""
        event = self.events.get(coin_config_id)
        if event is None:
            raise Failed(404, f"Coin configuration not found for coinConfigId: {coin_config_id}")
        return event

    def create_event(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Add an event; it replaces an older one of the same company and name for allocations."""
        event = CoinEvent(
            coin_config_id=f"WCC{self._next_config}",
            configuration=_configuration(body),
            company_id=_text(body, "companyId"),
            event=_text(body, "event"),
            amount=_amount(body),
        )
        self._next_config += 1
        self.events[event.coin_config_id] = event
        self._by_name[event.company_id, event.event] = event
        return event.payload()

    def update_event(self, event: CoinEvent, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change the fields in the body."""
        changes: dict[str, Any] = {}
        if "amount" in body:
            changes["amount"] = _amount(body)
        if "configuration" in body:
            changes["configuration"] = _configuration(body)
        if "companyId" in body:
            changes["company_id"] = _text(body, "companyId")
        if "event" in body:
            changes["event"] = _text(body, "event")
        if self._by_name.get((event.company_id, event.event)) is event:
            del self._by_name[event.company_id, event.event]
        for name, value in changes.items():
            setattr(event, name, value)
        self._by_name[event.company_id, event.event] = event
        return event.payload(with_company=False)

    def allocate(self, body: Mapping[str, Any], *, duplicates: str, failing: Callable[[], bool]) -> str:
        """Credit the present coins of an event to a user.

        Args:
            body: The request.
            duplicates: The answer to a known request id: `"replay"`, `"reject"`, `"conflict"` or `"credit"`.
            failing: Called last; True fails the allocation for lack of funds.

        Raises:
            Failed: a field is missing or wrong, the event is unknown, the request id is known, or funds are short.
        """
        company_id, name = _text(body, "companyId"), _text(body, "event")
        request_id, user_id = _text(body, "requestId"), _text(body, "userId")
        if request_id in self._request_ids and duplicates != "credit":
            if duplicates == "replay":
                return _ALLOCATED
            if duplicates == "conflict":
                raise Failed(409, "Duplicate request id")
            raise Failed(200, f"Duplicate requestId: {request_id}")
        event = self._by_name.get((company_id, name))
        if event is None:
            raise Failed(404, f"Coin configuration not found for companyId: {company_id} and event: {name}")
        if (self.funds is not None and self.funds < event.amount) or failing():
            raise Failed(200, _NO_FUNDS)
        if self.funds is not None:
            self.funds -= event.amount
        self._request_ids.add(request_id)
        self.balances[user_id] += event.amount
        credit = Credit(
            request_id=request_id, user_id=user_id, company_id=company_id, event=name, amount=event.amount, at=self._clock()
        )
        self.credits.append(credit)
        return _ALLOCATED

    def balance(self, user_id: str | None) -> int:
        """Return a user's coins, 0 for an unknown user."""
        if not user_id:
            raise Failed(400, "userId is required")
        return self.balances.get(user_id, 0)

    def report(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "events": [event.payload() for event in self.events.values()],
            "allocations": [credit.entry() for credit in self.credits],
            "created": Counter(credit.request_id for credit in self.credits),
            "balances": dict(self.balances),
            "funds": self.funds,
        }


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None or value == "":
        raise Failed(400, f"{name} is required")
    if not isinstance(value, str):
        raise Failed(422, f"{name} must be a string")
    return value


def _amount(body: Mapping[str, Any]) -> int:
    amount = body.get("amount")
    if amount is None:
        raise Failed(400, "amount is required")
    if type(amount) is not int or amount < 0:
        raise Failed(422, "amount must be an integer, 0 or more")
    if amount > _MAX_AMOUNT:
        raise Failed(422, f"amount must be at most {_MAX_AMOUNT}")
    return amount


def _configuration(body: Mapping[str, Any]) -> str:
    configuration = _text(body, "configuration")
    if configuration not in _CONFIGURATIONS:
        raise Failed(422, f"configuration must be one of {', '.join(_CONFIGURATIONS)}")
    return configuration
