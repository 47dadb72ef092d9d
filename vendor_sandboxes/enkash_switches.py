"""What can be switched in the sandboxed EnKash."""

from __future__ import annotations

from attrs import define

from vendor_sandboxes.faults import Faults, chance, choice, flag, seconds


@define(kw_only=True)
class EnkashSwitches(Faults):
    """The switches of the sandboxed EnKash beside those of `Faults`; each may be set while it runs."""

    fail_rate: float = chance("an allocation fails with code 1 at status 200 and credits nothing")
    duplicate_request: str = choice(
        "replay", ("replay", "reject", "credit"), "answer a known requestId with success, with code 1, or by crediting again"
    )
    token_life: float = seconds(300.0, "how long a token is valid")
    expires_in: float = seconds(0.0, "what the token reply says of that, 0 for the truth")
    token_hang: float = seconds(0.0, "how long a token reply is held back, after a rejection has counted")
    token_keys: str = choice("snake", ("snake", "camel"), "how the token reply spells its keys")
    rejection: str = choice("status", ("status", "envelope"), "reject a token call with 400 or 401, or with code 1 at status 200")
    envelope: str = choice("response_code", ("response_code", "code"), "how the envelope spells its keys")
    code_as: str = choice("number", ("number", "string"), "how the envelope writes its code")
    encrypted: bool = flag("bodies of the coins endpoints are encrypted both ways")
