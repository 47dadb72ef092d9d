"""What can be switched in the sandboxed Original."""

from __future__ import annotations

from attrs import define

from vendor_sandboxes.faults import Faults, chance, choice, flag, mixture, seconds, span


@define(kw_only=True)
class OriginalSwitches(Faults):
    """The switches of the sandboxed Original beside those of `Faults`; each may be set while it runs."""

    confirm: tuple[float, float] | None = span((0.5, 3.0), "seconds until the chain confirms, LOW:HIGH, or never")
    fail_rate: float = chance("an operation ends as failed, of which no webhook tells")
    fail_then_done: float = chance("an operation reads failed and, after the same time again, done")
    list_lag: float = seconds(0.0, "how long a new operation is missing from lists")
    read_lag: float = seconds(0.0, "how long a new operation answers 404 to its uid")
    webhook_loss: float = chance("an event is never sent")
    webhook_duplicate: float = chance("an accepted event is sent once more")
    webhook_reorder: float = chance("an event is held back until another one went out")
    webhook_hold: float = seconds(0.5, "how long an event is held back at most")
    webhook_before_reply: float = chance("a creation is confirmed and its webhook sent before it is answered")
    webhook_body: tuple[str, ...] = mixture(
        "full", ("full", "uid", "opaque"), "what events carry; several joined by commas take turns at random"
    )
    duplicate_nonce: str = choice("reject", ("reject", "replay"), "answer a known nonce with 400, or with 201 and the first uid")
    read_path: str = choice("both", ("allocation", "allocate", "both"), "under which path allocations are read")
    amounts: str = choice("string", ("string", "number"), "how amounts are written")
    strict: bool = flag("refuse unknown users and rewards, empty claims, and a second claim while one is pending")
