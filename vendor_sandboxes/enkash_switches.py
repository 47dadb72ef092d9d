"""What can be switched in the sandboxed EnKash."""

from __future__ import annotations

from attrs import define

from vendor_sandboxes.faults import Faults, chance, choice, flag, seconds


@define(kw_only=True)
class EnkashSwitches(Faults):
    """The switches of the sandboxed EnKash beside those of `Faults`; each may be set while it runs."""

    fail_rate: float = chance("an allocation fails with code 1 at status 200 and credits nothing")
    duplicate_request: str = choice(
        "replay",
        ("replay", "reject", "conflict", "credit"),
        "answer a known requestId with success, with code 1 at status 200, with status 409, or by crediting again",
    )
    token_life: float = seconds(300.0, "how long a token is valid")
    expires_in: float = seconds(0.0, "lifetime that the token reply states, 0 for the true one")
    token_hang: float = seconds(0.0, "how long a token reply is held back; a rejection counts before")
    token_answer: str = choice(
        "normal",
        ("normal", "redirect", "empty", "page"),
        "answer a token call with a token, a redirect to a login page, 204 without a body, or an HTML page at status 200; "
        "all but the first neither give a token nor count as a rejection",
    )
    token_keys: str = choice("snake", ("snake", "camel"), "spelling of the keys of the token reply")
    rejection: str = choice("status", ("status", "envelope"), "reject a token call with 400 or 401, or with code 1 at status 200")
    envelope: str = choice("response_code", ("response_code", "code"), "spelling of the keys of the envelope")
    code_as: str = choice("number", ("number", "string"), "how the envelope writes its code")
    encrypted: bool = flag("bodies of the coins endpoints are encrypted both ways")
