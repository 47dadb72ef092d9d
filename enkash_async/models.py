"""Models of EnKash's coins; unknown keys stay in `raw`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from rewards_core.operations import OpenEnum
from rewards_core.validation import check_choice, check_str, check_whole, checked

MAX_COINS = 2**63 - 1


class CoinConfiguration(OpenEnum):
    """How the coins of an event are configured; sent in capitals."""

    DEFAULT = "default"
    CUSTOM = "custom"


@frozen(kw_only=True)
class CoinEvent:
    """An event, and how many coins it is worth.

    Attributes:
        coin_config_id: EnKash's id of the event, such as `"WCC817428"`; a lost id cannot be looked up.
        configuration: `default` or `custom`; an unknown word is kept as its text.
        event: The name, which allocations use.
        amount: Coins per allocation, when this was read.
        company_id: The company of the event; None where EnKash omits it.
        raw: EnKash's JSON object.
    """

    coin_config_id: str
    configuration: CoinConfiguration
    event: str
    amount: int
    company_id: str | None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)


@frozen(kw_only=True)
class CoinEventRequest:
    """What `create_event` or `update_event` was asked for: the `request` of its `OutcomeUnknown`.

    EnKash has no look-up for a created event; an updated one can be read with `get_event`.

    Attributes:
        coin_config_id: The event to update; None for a new one.
        configuration: The configuration; None to leave it.
        event: The name; None to leave it.
        amount: Coins per allocation; None to leave them.
        company_id: The company; None to leave it.
    """

    coin_config_id: str | None = None
    configuration: CoinConfiguration | None = None
    event: str | None = None
    amount: int | None = None
    company_id: str | None = None


@frozen(kw_only=True)
class CoinAllocationRequest:
    """The arguments of an `allocate_coins` call whose outcome is unknown: the `request` of `OutcomeUnknown`.

    EnKash cannot look up an allocation, so `Completions.wait` does not accept it.

    Attributes:
        event: The name of the event.
        user_id: The receiving user.
        request_id: The caller's id of the allocation.
        company_id: The company of the user.

    Raises:
        TypeError: an attribute has the wrong type.
    """

    event: str = field(validator=checked(check_str))
    user_id: str = field(validator=checked(check_str))
    request_id: str = field(validator=checked(check_str))
    company_id: str = field(validator=checked(check_str))


@frozen(kw_only=True)
class CoinAllocation:
    """An allocation of coins; EnKash returns neither its id nor its amount.

    Attributes:
        event: The name of the event.
        user_id: The receiving user.
        request_id: The caller's id of the allocation.
        company_id: The company of the user.
        message: EnKash's message.
        raw: EnKash's JSON object.
    """

    event: str
    user_id: str
    request_id: str
    company_id: str
    message: str
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)


def check_coins(amount: int) -> int:
    """Return a number of coins, from 0 to 2**63 - 1.

    Raises:
        TypeError: the number is not an int.
        ValueError: the number is out of range.
    """
    return int(check_whole(amount, "amount", at_least=0, at_most=MAX_COINS))


def check_configuration(configuration: object) -> CoinConfiguration:
    """Return a documented configuration.

    Raises:
        TypeError: the configuration is not a str.
        ValueError: the configuration is not documented.
    """
    word = CoinConfiguration(configuration).value if isinstance(configuration, str) else configuration
    return CoinConfiguration(str(check_choice(word, "configuration", [each.value for each in CoinConfiguration])))
