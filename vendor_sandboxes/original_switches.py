"""What can be switched in the sandboxed Original."""

from __future__ import annotations

from attrs import define

from vendor_sandboxes.faults import Faults, chance, choice, flag, mixture, number, seconds, span, text


@define(kw_only=True)
class OriginalSwitches(Faults):
    """The switches of the sandboxed Original beside those of `Faults`; each may be set while it runs."""

    confirm: tuple[float, float] | None = span(
        (0.5, 3.0), "range of the seconds until the blockchain confirms an operation, or never"
    )
    fail_rate: float = chance("an operation fails on the blockchain, which no webhook reports")
    fail_then_done: float = chance("an operation reads failed at first and turns done later")
    list_lag: float = seconds(0.0, "how long a new operation is missing from lists")
    read_lag: float = seconds(0.0, "how long reading a new operation by its uid answers 404")
    webhook_loss: float = chance("an event is never sent")
    webhook_duplicate: float = chance("an accepted event is sent a second time")
    webhook_reorder: float = chance("an event is held back until another one has been sent")
    webhook_hold: float = seconds(0.5, "longest time an event is held back")
    webhook_before_reply: float = chance(
        "an operation is confirmed, and its webhook sent, before the request that creates it is answered"
    )
    webhook_body: tuple[str, ...] = mixture(
        "full",
        ("full", "uid", "opaque"),
        "whether an event carries the whole resource, only its uid, or neither",
    )
    webhook_shape: tuple[str, ...] = mixture(
        "allocation",
        ("allocation", "reward_allocation", "flat", "allocation_uid", "reward", "allocations"),
        "where in its `data` an event carries that; events of claims say claim instead of allocation",
    )
    attempt_in_body: bool = flag("webhook bodies also carry the app uid, the correlation id and the number of the attempt")
    duplicate_nonce: str = choice("reject", ("reject", "replay"), "refuse a known nonce, or answer 201 with the first uid")
    known_nonce_text: str = text("nonce already used", "message that refuses a known nonce")
    known_nonce_status: int = number(400, 400, 499, "HTTP status that refuses a known nonce")
    commit_late: float = seconds(
        0.0, "what p503_after_commit or drop_after_commit hits is committed this long after the answer; with 0, before it"
    )
    page_size: int = number(0, 0, None, "how many operations a page of a list holds, 0 for lists without pages")
    page_shape: str = choice(
        "beside", ("beside", "inside"), "put count, next and previous beside `data`, or inside it with the list as `results`"
    )
    read_path: str = choice("both", ("allocation", "allocate", "both"), "under which path allocations are read")
    amounts: str = choice("number", ("string", "number"), "how amounts are written")
    strict: bool = flag("refuse unknown users and rewards, empty claims, and a second claim while one is pending")
