"""What commands and the console tell of jobs, handlers and bodies, as JSON values and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewards_core.errors import UnexpectedResponse
from rewards_core.json import pretty

if TYPE_CHECKING:
    from webhooks.store.records import HandlerStatus, Job


def job_facts(job: Job) -> dict[str, Any]:
    """Return the JSON of a job."""
    return {
        "handler": job.handler,
        "state": str(job.state),
        "attempts": job.attempts,
        "running": job.fence is not None,
        "due_in": round(job.due_in, 1),
        "why": job.reason,
    }


def handler_facts(status: HandlerStatus) -> dict[str, Any]:
    """Return the JSON of a handler."""
    subscription = status.subscription
    return {
        "service": subscription.service,
        "handler": subscription.handler,
        "scope": subscription.scope,
        "events": sorted(subscription.patterns),
        "served": status.served,
        "ready": status.ready,
        "dead": status.dead,
        "differing": status.differing,
    }


def body_as_text(body: bytes) -> str:
    """Return a body as it arrived, with what is not UTF-8 escaped."""
    return body.decode("utf-8", "backslashreplace")


def body_indented(body: bytes) -> str:
    """Return a body for people: indented if it is JSON, else as it arrived."""
    try:
        return pretty(body)
    except UnexpectedResponse:
        return body_as_text(body)
