"""What the models of Original have in common."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from rewards_core.json import OURS
from rewards_core.operations import DEFAULT_SCOPE, OperationStatus, Status
from rewards_core.validation import check_str, checked


class DeploymentStatus(Status):
    """Whether a reward contract or a collection is deployed; an unknown status is kept as its text and is not terminal."""

    DEPLOYING = "deploying"
    DEPLOYED = "deployed"

    @property
    def outcome(self) -> OperationStatus | None:
        """`done` if it is deployed, else None."""
        return OperationStatus.DONE if self is DeploymentStatus.DEPLOYED else None


@frozen(kw_only=True)
class Unkeyed:
    """A model whose request has no idempotency key."""

    @property
    def key(self) -> None:
        """None: it has no idempotency key."""
        return None

    @property
    def recovered(self) -> bool:
        """False: it has no key to be found by."""
        return False


def raw_field() -> Any:
    """Return the field that holds the vendor's JSON object."""
    return field(factory=dict, eq=False, repr=False)


def scope_field() -> Any:
    """Return the field that holds the scope of the client."""
    return field(default=DEFAULT_SCOPE, metadata=OURS)


def ours_field() -> Any:
    """Return the field that tells whether a look-up found the object; False if the vendor's answer created or read it."""
    return field(default=False, metadata=OURS)


def text_field(**options: Any) -> Any:
    """Return a field of a request that holds a text."""
    return field(validator=checked(check_str), **options)
