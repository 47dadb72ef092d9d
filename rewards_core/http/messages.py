"""Requests with their credentials, and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar

from attrs import define, field, frozen
from multidict import CIMultiDict

from rewards_core.version import USER_AGENT

if TYPE_CHECKING:
    from rewards_core.errors import FieldError, RequestRejected
    from rewards_core.operations import MaySend

T = TypeVar("T")

MAX_REPLY = 10 * 1024 * 1024
"""Bytes of the longest answer that is read, unless a request sets its own limit."""


class Effect(Enum):
    """What it means to send a request twice."""

    READ = "read"
    KEYED = "keyed write"
    BARE = "bare write"


@define(kw_only=True)
class Request(Generic[T]):
    """One logical call, sent with the same bytes in every attempt.

    Attributes:
        operation: The method of the client, for messages and observers.
        method: The HTTP method, in capitals.
        url: The address, in the transport's own type, ready to send.
        effect: What it means to send it twice.
        read: Reads a 2xx answer; raises `UnexpectedResponse` if it cannot, `RequestRejected` if the body is a refusal.
        body: The bytes to send.
        key: The caller's idempotency key.
        asked: The `request` of an `OutcomeUnknown`, frozen and picklable.
        says_known: Whether a refusal means that the vendor already knows the key, so that the outcome is unknown. Not called for
            401, 403 and 429; without it, every refusal stands.
        max_reply: Bytes of the longest answer that is read.
        advice: What to do if the outcome is unknown; by default, to look the key up.
        deadline: When the call must end, in the running loop's time.
        may_send: For a read that a budget of requests pays for: awaited just before the request is sent; False cancels it. Such a
            read is attempted once, not at all during a pause that the vendor asked for, and again only after a 401 with new
            credentials.
        maybe_sent: Whether bytes of a cancelled attempt may have been sent; set by the transport.
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
    maybe_sent: bool = field(default=False, init=False)


class Answer(NamedTuple):
    """One complete HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@frozen(kw_only=True)
class Refusal:
    """A vendor's error body.

    Attributes:
        message: The vendor's message, empty if there is none.
        code: The vendor's error code.
        details: Errors of single fields and of the request as a whole.
        request_id: The vendor's id of the request.
        invalid: Whether the vendor reports a failed validation.
    """

    message: str = ""
    code: str | None = None
    details: Sequence[FieldError] = ()
    request_id: str | None = None
    invalid: bool = False


@frozen(repr=False)
class Headers:
    """Request headers that include credentials, so they are hidden in a repr and cannot be pickled."""

    fields: CIMultiDict[str]

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Headers:
        """Return these headers, plus `Accept-Encoding: identity` and our `User-Agent` unless they name others."""
        fields = CIMultiDict({"Accept-Encoding": "identity", "User-Agent": USER_AGENT})
        fields.update(headers)
        return cls(fields)

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self.fields)}: hidden>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Headers hold credentials and cannot be pickled.")


class Authorizer(Protocol):
    """The source of a request's headers, credentials included."""

    async def headers(self, timeout: float) -> Headers:
        """Return the headers of the next attempt; the same object until they change.

        Raises:
            TimeoutError: there were no credentials within `timeout` seconds.
            VendorError: there are no credentials.
        """
        ...

    async def renew(self, refused: Headers, timeout: float) -> bool:
        """Return whether there are other credentials than those that got a 401."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Return the texts that no message may show."""
        ...
