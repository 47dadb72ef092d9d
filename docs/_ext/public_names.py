"""What is public, and where the site describes it."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

PACKAGES = ("rewards_core", "original_async", "enkash_async", "webhooks", "payouts", "vendor_sandboxes")
SUBMODULES = {
    "original_async.settlement": ("OriginalOperation",),
    "payouts.ledger.base": ("Facts", "Move", "RowLedger"),
    "payouts.ledger.readings": ("Audit", "Difference", "Fleet", "RetiredKey", "Sum", "WorkerSeen"),
    "payouts.vendors.payers": ("Client",),
    "rewards_core.version": ("VERSION",),
    "vendor_sandboxes.options": ("EnkashOptions", "OriginalOptions", "SandboxOptions"),
    "vendor_sandboxes.testing": (),
    "webhooks.delivery_watch": ("Delivery", "DeliveryObserver"),
    "webhooks.ingress.asgi": ("AsgiIngress",),
    "webhooks.ingress.base": ("Closable", "Intake"),
    "webhooks.ingress.queue": (),
    "webhooks.ingress.signals": ("close_on_signal",),
    "webhooks.ingress.sqs": ("SqsIngress",),
    "webhooks.prometheus": ("collector",),
    "webhooks.store": ("StoreUrl",),
    "webhooks.store.base": ("Subscriber",),
    "webhooks.store.queries": ("EventQuery", "OutcomeQuery", "StoreQueries"),
    "webhooks.store.records": (
        "ClaimedJob",
        "Job",
        "PendingOperation",
        "PollClaim",
        "PollClaims",
        "PollPermit",
        "PollResult",
        "Priority",
        "Recorded",
        "Verdict",
    ),
    "webhooks.testing": ("fast_polls",),
}
"""Documented modules beside the packages, and their names where they have no `__all__`."""


@cache
def public_names() -> dict[str, Any]:
    """Return what is public, by the name that it is imported by."""
    found: dict[str, Any] = {}
    for module_name in (*PACKAGES, *SUBMODULES):
        module = importlib.import_module(module_name)
        for name in SUBMODULES.get(module_name) or module.__all__:
            found[f"{module_name}.{name}"] = getattr(module, name)
    return found


@cache
def defined_as() -> dict[str, str]:
    """Return the public name of each thing by the name that it is defined with."""
    return {
        f"{thing.__module__}.{thing.__qualname__}": name
        for name, thing in public_names().items()
        if hasattr(thing, "__qualname__") and hasattr(thing, "__module__")
    }


@cache
def by_last_part() -> dict[str, str]:
    """Return the public names by their last part, which no two of them share."""
    found: dict[str, str] = {}
    for name in public_names():
        last = name.rpartition(".")[2]
        if last in found:
            raise ValueError(f"{name} and {found[last]} have the same name: say which one `{last}` stands for")
        found[last] = name
    return found
