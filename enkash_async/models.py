"""What EnKash is asked for and returns, as frozen models; unknown keys stay in `raw`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from rewards_core.operations import OpenEnum
from rewards_core.validation import check_choice, check_str, check_whole, checked

MAX_COINS = 2**63 - 1


class CoinConfiguration(OpenEnum):
    """How the coins of an event are configured; written in capitals on the wire."""

    DEFAULT = "default"
    CUSTOM = "custom"


@frozen(kw_only=True)
class CoinEvent:
    """What one kind of qualifying action is worth.

    Attributes:
        coin_config_id: EnKash's id of it, such as `"WCC817428"`; no list can recover a lost one.
        configuration: `default` or `custom`; a new word is kept.
        event: Its name, which allocations go by.
        amount: Coins per allocation, as configured when this was read.
        company_id: The company it belongs to; None where EnKash leaves it out.
        raw: EnKash's own JSON object.
    """

    coin_config_id: str
    configuration: CoinConfiguration
    event: str
    amount: int
    company_id: str | None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)


@frozen(kw_only=True)
class CoinEventRequest:
    """What `create_event` or `update_event` was asked for; the `request` of an `OutcomeUnknown`.

    EnKash has no look-up for a `create_event`; after an `update_event`, `get_event` tells how the event stands.

    Attributes:
        coin_config_id: The event to change; None for a new one.
        configuration: The configuration asked for; None to leave it.
        event: The name asked for; None to leave it.
        amount: The coins per allocation asked for; None to leave them.
        company_id: The company asked for; None to leave it.
    """

    coin_config_id: str | None = None
    configuration: CoinConfiguration | None = None
    event: str | None = None
    amount: int | None = None
    company_id: str | None = None


@frozen(kw_only=True)
class CoinAllocationRequest:
    """What `allocate_coins` was asked for; the `request` of an `OutcomeUnknown`.

    EnKash finds no allocation by its request id, so `Completions.wait` cannot take it.

    Attributes:
        event: The event whose coins were asked for.
        user_id: Who was to receive them.
        request_id: The caller's id of the allocation.
        company_id: The company of the user.

    Raises:
        TypeError: an attribute is of another type.
    """

    event: str = field(validator=checked(check_str))
    user_id: str = field(validator=checked(check_str))
    request_id: str = field(validator=checked(check_str))
    company_id: str = field(validator=checked(check_str))


@frozen(kw_only=True)
class CoinAllocation:
    """That EnKash allocated coins; it returns neither an id nor an amount.

    Attributes:
        event: The event whose coins were allocated.
        user_id: Who received them.
        request_id: The caller's id of the allocation.
        company_id: The company of the user.
        message: EnKash's own words.
        raw: The whole answer.
    """

    event: str
    user_id: str
    request_id: str
    company_id: str
    message: str
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)


def check_coins(amount: int) -> int:
    """Return a number of coins: whole, from 0 to 2**63 - 1.

    Raises:
        TypeError: it is not an int.
        ValueError: it is out of range.
    """
    return int(check_whole(amount, "amount", at_least=0, at_most=MAX_COINS))


def check_configuration(configuration: object) -> CoinConfiguration:
    """Return a configuration that EnKash documents.

    Raises:
        TypeError: it is not a str.
        ValueError: EnKash documents no such word.
    """
    word = CoinConfiguration(configuration).value if isinstance(configuration, str) else configuration
    return CoinConfiguration(str(check_choice(word, "configuration", [each.value for each in CoinConfiguration])))
