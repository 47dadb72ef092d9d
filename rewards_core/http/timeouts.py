"""The timeouts of a call."""

from __future__ import annotations

from attrs import field, frozen

from rewards_core.validation import number


@frozen(kw_only=True)
class Timeouts:
    """The timeouts of a call, in seconds.

    Attributes:
        total: One logical call, with all attempts and the pauses between them.
        connect: One attempt until it is connected, name look-up and TLS included.
        read: One attempt from its start to the last byte of the answer.

    Raises:
        TypeError: an attribute is not a number.
        ValueError: an attribute is not above 0, or not finite.
    """

    total: float = field(default=30.0, validator=number(above=0))
    connect: float = field(default=5.0, validator=number(above=0))
    read: float = field(default=10.0, validator=number(above=0))
