"""The options of the sandboxes; each may be changed while a sandbox runs, and each is an option of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from attrs import define, field

Span = tuple[float, float]


def read_span(value: Any) -> Span | None:
    """Return the range of seconds in `(0.5, 3)`, `"0.5:3"` or `2`, and None for `None` and `"never"`."""
    if value is None or value == "never":
        return None
    if isinstance(value, str):
        low_text, _, high_text = value.partition(":")
        low, high = float(low_text), float(high_text or low_text)
    elif isinstance(value, int | float):
        low = high = float(value)
    else:
        low, high = (float(end) for end in value)
    if not 0 <= low <= high:
        raise ValueError(f"{value!r} is not a range of seconds: give LOW:HIGH with 0 <= LOW <= HIGH, or the word never")
    return low, high


def _option(
    default: Any,
    *,
    read: Callable[[Any], Any] | None = None,
    valid: Callable[[Any], bool] = lambda _: True,
    give: str = "",
    **argument: Any,
) -> Any:
    """Return an attribute whose metadata are the arguments of `add_argument`."""

    def check(_: Any, attribute: Any, value: Any) -> None:
        if not valid(value):
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise ValueError(f"{attribute.name} cannot be {shown!r}: {give}")

    return field(default=default, converter=read, validator=check, metadata={"argument": argument})


def _chance(help_text: str) -> Any:
    return _option(
        0.0,
        read=float,
        valid=lambda value: 0 <= value <= 1,
        give="give a probability from 0 to 1",
        type=float,
        nargs="?",
        const=1.0,
        metavar="P",
        help=f"probability: {help_text}",
    )


def _seconds(default: float, help_text: str) -> Any:
    give = "give seconds, 0 or more"
    return _option(default, read=float, valid=lambda value: value >= 0, give=give, type=float, metavar="SECONDS", help=help_text)


def _span(default: Span | None, help_text: str) -> Any:
    return _option(default, read=read_span, metavar="LOW:HIGH", help=help_text)


def _choice(default: str, words: Sequence[str], help_text: str) -> Any:
    give = f"choose one of {', '.join(words)}"
    return _option(default, valid=lambda value: value in words, give=give, choices=words, help=help_text)


def _text(default: str, help_text: str) -> Any:
    return _option(default, read=str, metavar="TEXT", help=help_text)


def _number(default: int, lowest: int, highest: int | None, help_text: str) -> Any:
    give = f"give a whole number, {lowest} or more" if highest is None else f"give a whole number from {lowest} to {highest}"

    def valid(value: Any) -> bool:
        return type(value) is int and value >= lowest and (highest is None or value <= highest)

    return _option(default, valid=valid, give=give, type=int, metavar="N", help=help_text)


def _flag(help_text: str) -> Any:
    return _option(False, read=bool, action="store_true", help=help_text)


def _mixture(default: str, words: Sequence[str], help_text: str) -> Any:
    """Return an option of one word, or of several joined by commas, one of which is chosen at random for each event."""

    def read(value: str | Iterable[str]) -> tuple[str, ...]:
        return tuple(value.split(",") if isinstance(value, str) else value)

    listed = ", ".join(words)
    help_text += f"; one of {listed}, or several joined by commas, one of which is chosen at random for each event"
    return _option(
        default,
        read=read,
        valid=lambda value: bool(value) and set(value) <= set(words),
        give=f"choose among {listed}",
        metavar="WORDS",
        help=help_text,
    )


@define(kw_only=True)
class SandboxOptions:
    """The options of both sandboxes."""

    p503: float = _chance("answer 503 and do nothing")
    p503_after_commit: float = _chance("carry out a write but answer 503")
    p429: float = _chance("answer 429 with Retry-After and do nothing")
    retry_after: float = _seconds(1.0, "Retry-After of a 429")
    drop_before_commit: float = _chance("close the connection without an answer and do nothing")
    drop_after_commit: float = _chance("carry out a write but close the connection without an answer")
    slow_after_commit: float = _chance("carry out a write but answer late")
    slow_seconds: float = _seconds(10.0, "delay of a slow answer")
    latency: tuple[float, float] | None = _span(None, "range of the seconds by which every answer is delayed")
    only_path: str = _text("", "faults hit only requests whose path contains this text")


@define(kw_only=True)
class OriginalOptions(SandboxOptions):
    """The options of the sandboxed Original."""

    confirm: tuple[float, float] | None = _span(
        (0.5, 3.0), "range of the seconds until the blockchain confirms an operation, or the word never"
    )
    fail_rate: float = _chance(
        "an operation fails on the blockchain, which no webhook reports: an allocation or claim reads as failed, and a mint, "
        "edit or burn stays pending for ever"
    )
    fail_then_done: float = _chance("an allocation or claim is reported as failed at first, and as done later")
    cancel_rate: float = _chance("a transfer is cancelled, which no webhook reports")
    burn_lag: float = _seconds(0.0, "how long after a burn is done its asset still reads as not burned")
    list_lag: float = _seconds(0.0, "how long a new operation is missing from lists")
    read_lag: float = _seconds(0.0, "how long a new operation cannot be read by its uid (404)")
    webhook_loss: float = _chance("an event is never sent")
    webhook_duplicate: float = _chance("an accepted event is sent a second time")
    webhook_reorder: float = _chance("an event is held back until another event has been sent")
    webhook_hold: float = _seconds(0.5, "longest time an event is held back")
    webhook_before_reply: float = _chance(
        "an operation is confirmed, and its webhook sent, before the request that creates it is answered"
    )
    webhook_body: tuple[str, ...] = _mixture(
        "full",
        ("full", "uid", "opaque"),
        "whether an event carries the whole resource, only its uid, or neither",
    )
    webhook_shape: tuple[str, ...] = _mixture(
        "allocation",
        ("allocation", "reward_allocation", "flat", "allocation_uid", "reward", "allocations"),
        "where in `data` an event carries the resource or uid; events of claims say claim instead of allocation",
    )
    asset_webhook_shape: tuple[str, ...] = _mixture(
        "asset",
        ("asset", "sample", "flat", "asset_uid", "with_operation"),
        "where in `data` an event of an asset carries it: sample has only its uid, name and metadata, and with_operation has the "
        "transfer or burn beside it",
    )
    attempt_in_body: bool = _flag("webhook bodies also carry the app uid, the correlation id and the number of the attempt")
    duplicate_nonce: str = _choice("reject", ("reject", "replay"), "refuse a known nonce, or answer 201 with the first uid")
    duplicate_external_id: str = _choice(
        "mint",
        ("mint", "reject", "replay"),
        "create another asset under a known asset_external_id, refuse it, or answer 201 with the first uid",
    )
    known_nonce_text: str = _text("nonce already used", "message that refuses a known nonce")
    known_nonce_status: int = _number(400, 400, 499, "HTTP status that refuses a known nonce")
    commit_late: float = _seconds(
        0.0,
        "how long after the answer a write hit by p503_after_commit or drop_after_commit is committed; with 0, before the answer",
    )
    page_size: int = _number(0, 0, None, "how many operations a page of a list holds, 0 for lists without pages")
    page_shape: str = _choice(
        "beside", ("beside", "inside"), "put count, next and previous beside `data`, or inside it with the list as `results`"
    )
    read_path: str = _choice("both", ("allocation", "allocate", "both"), "path at which allocations can be read")
    amounts: str = _choice("number", ("string", "number"), "how amounts are written")
    token_ids: str = _choice("number", ("number", "text"), "how token ids are written")
    user_shape: str = _choice(
        "wallets", ("wallets", "wallet_address"), "how a user carries the wallet, wallet_address in older docs"
    )
    from_user_key: str = _choice(
        "from_user_uid",
        ("from_user_uid", "from_app_user_uid"),
        "key under which a transfer or burn carries its user, from_app_user_uid in older docs",
    )
    strict: bool = _flag("refuse unknown users, rewards and collections, empty claims, and a second claim while one is pending")


@define(kw_only=True)
class EnkashOptions(SandboxOptions):
    """The options of the sandboxed EnKash."""

    fail_rate: float = _chance("an allocation fails with code 1 at status 200 and credits nothing")
    duplicate_request: str = _choice(
        "replay",
        ("replay", "reject", "conflict", "credit"),
        "answer a known requestId with success, with code 1 at status 200, with status 409, or by crediting again",
    )
    token_life: float = _seconds(300.0, "how long a token is valid")
    expires_in: float = _seconds(0.0, "lifetime that the token reply states, 0 for the true lifetime")
    token_hang: float = _seconds(0.0, "how long a token reply is held back; a rejection counts at once")
    token_answer: str = _choice(
        "normal",
        ("normal", "redirect", "empty", "page"),
        "answer a token call with a token, a redirect to a login page, 204 without a body, or an HTML page at status 200; "
        "the last three give no token and do not count as a rejection",
    )
    token_keys: str = _choice("snake", ("snake", "camel"), "spelling of the keys of the token reply")
    rejection: str = _choice(
        "status", ("status", "envelope"), "reject a token call with 400 or 401, or with code 1 at status 200"
    )
    envelope: str = _choice("response_code", ("response_code", "code"), "spelling of the keys of the envelope")
    code_as: str = _choice("number", ("number", "string"), "how the envelope writes its code")
    encrypted: bool = _flag("bodies of the coins endpoints are encrypted both ways")
