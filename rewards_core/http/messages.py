"""What a call sends and what comes back: requests, their credentials, answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar

from attrs import define, field, frozen
from multidict import CIMultiDict

if TYPE_CHECKING:
    from rewards_core.errors import FieldError, RequestRejected
    from rewards_core.operations import MaySend

T = TypeVar("T")

MAX_REPLY = 10 * 1024 * 1024
"""The longest answer that is read unless a request says otherwise, in bytes."""


class Effect(Enum):
    """What sending a request twice can do."""

    READ = "read"
    KEYED = "keyed write"
    BARE = "bare write"


@define(kw_only=True)
class Request(Generic[T]):
    """What one logical call sends, the same bytes in every attempt.

    Attributes:
        operation: The method of the client, for messages and observers.
        method: The HTTP method, in capitals.
        url: The address, in the transport's own type, ready to send.
        effect: What sending it twice can do.
        read: Reads a 2xx answer; raises `UnexpectedResponse` if it cannot, `RequestRejected` if it says no after all.
        body: The bytes to send.
        key: The caller's idempotency key.
        asked: What was asked for, frozen and picklable, for the `request` of an `OutcomeUnknown`.
        says_known: Whether a refusal says that the vendor already knows the key, which leaves the outcome unknown; never asked
            about 401, 403 and 429. If not given, every refusal stands.
        max_reply: The longest answer that is read, in bytes.
        advice: What to do where nobody knows whether it was carried out; to look the key up, if not given.
        deadline: When the call must be over, in the running loop's time.
        may_send: For a read whose caller keeps to a budget of requests: awaited when a request is about to leave, which is not
            sent if it returns False. Such a read is attempted once, and not at all while the vendor wants all calls to pause;
            only after 401 it is sent again with other credentials, if it may be.
        left: Whether bytes of an attempt that was cancelled may have left; the transport says so.
    """

    operation: str
    method: str
    url: Any
    effect: Effect
    read: Callable[[Answer], T]
    deadline: float
    body: bytes | None = field(default=None, repr=False)
    key: str | None = None
    asked: object | None = None
    says_known: Callable[[RequestRejected], bool] | None = field(default=None, repr=False)
    max_reply: int = MAX_REPLY
    advice: str = ""
    may_send: MaySend | None = field(default=None, repr=False)
    left: bool = field(default=False, init=False)


class Answer(NamedTuple):
    """One HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@frozen(kw_only=True)
class Refusal:
    """What a vendor's error body says.

    Attributes:
        message: The vendor's own words, empty if there are none.
        code: The vendor's code.
        details: What is wrong, with single fields and with the request as a whole.
        request_id: The vendor's id of the request.
        invalid: Whether the vendor calls it a failed validation.
    """

    message: str = ""
    code: str | None = None
    details: Sequence[FieldError] = ()
    request_id: str | None = None
    invalid: bool = False


@frozen(repr=False)
class Headers:
    """The headers of a request, ready to send, credentials included: they show in no repr, log or pickle.

    Attributes:
        fields: The headers.
    """

    fields: CIMultiDict[str]

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Headers:
        """Make headers that also ask for an answer that need not be unpacked."""
        return cls(CIMultiDict({"Accept-Encoding": "identity", **headers}))

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self.fields)}: hidden>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("headers: credentials do not leave their process.")


class Authorizer(Protocol):
    """Where the headers of a request come from, credentials included."""

    async def headers(self, timeout: float) -> Headers:
        """Return the headers of the next attempt; the same object as long as nothing changed.

        Raises:
            TimeoutError: credentials were not to be had within `timeout` seconds.
            VendorError: they are not to be had at all.
        """
        ...

    async def renew(self, refused: Headers, timeout: float) -> bool:
        """Say whether other credentials are to be had, after these headers met a 401."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Return what must not appear in any message."""
        ...
