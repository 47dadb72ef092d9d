"""How a run works."""

from __future__ import annotations

from attrs import field, frozen

from rewards_core.validation import flag, number, optional, whole


@frozen(kw_only=True)
class RunOptions:
    """How a run works; times in seconds.

    Args:
        concurrency: Requests under way at once, 1 or more.
        rate: Maximum rows sent per second, above 0; None for no limit.
        max_pending: Rows accepted and not settled at one time, 1 or more.
        wait: Whether accepted rows are waited for.
        timeout: How long each accepted row is waited for, 0 or more; None for as long as it takes.
        lookup_timeout: How long a row without an answer is looked for, 0 or more, before it is left unknown, for the next run to
            repeat.
        limit: Maximum rows sent by the run, 0 or more; None for all.
        outage_timeout: How long a vendor that cannot be reached is tried before the run ends, 0 or more.
        grace: How long accepted rows are waited for after `stop()`, 0 or more; not the ledger's `grace`.
        max_refused: The number of consecutive refused rows after which the run ends, 1 or more; None for no limit.

    Raises:
        TypeError: an option is of another type.
        ValueError: a number is out of range.
    """

    concurrency: int = field(default=20, validator=whole(at_least=1))
    rate: float | None = field(default=20.0, validator=optional(number(at_least=1e-6)))
    max_pending: int = field(default=20_000, validator=whole(at_least=1))
    wait: bool = field(default=True, validator=flag())
    timeout: float | None = field(default=900.0, validator=optional(number(at_least=0)))
    lookup_timeout: float = field(default=60.0, validator=number(at_least=0))
    limit: int | None = field(default=None, validator=optional(whole(at_least=0)))
    outage_timeout: float = field(default=120.0, validator=number(at_least=0))
    grace: float = field(default=30.0, validator=number(at_least=0))
    max_refused: int | None = field(default=100, validator=optional(whole(at_least=1)))
