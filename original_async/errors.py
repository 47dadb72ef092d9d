"""Read Original's error bodies, and the errors of operations that failed on the blockchain."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from rewards_core.errors import FieldError, OperationCancelled, OperationFailed, UnexpectedResponse
from rewards_core.http.messages import Answer, Refusal
from rewards_core.json import loads

if TYPE_CHECKING:
    from original_async.models import Allocation, Claim, Transfer

_MAX_DETAILS, _MAX_DEPTH = 50, 5
_NO_ERRORS = frozenset({"success", "status", "status_code", "type", "data"})
_ERROR_MEMBERS = ("field_name", "message", "code")
_NO_FIELDS = frozenset(
    {"detail", "details", "error", "errors", "message", "messages", "msg", "title", "description", "non_field_errors", "__all__"}
)


class AllocationFailed(OperationFailed):
    """An allocation failed on the blockchain; nothing was paid.

    Attributes:
        operation: The allocation, in status `failed`.
    """

    operation: Allocation


class ClaimFailed(OperationFailed):
    """A claim failed on the blockchain; no tokens moved.

    Attributes:
        operation: The claim, in status `failed`.
    """

    operation: Claim


class TransferCancelled(OperationCancelled):
    """A transfer was cancelled; it moved nothing.

    Attributes:
        operation: The transfer, in status `cancelled`.
    """

    operation: Transfer


def read_refusal(answer: Answer) -> Refusal:
    """Read an error body; an unreadable one gives an empty refusal.

    The envelope is documented: `error.detail` is an object or a list of objects, see
    https://docs.getoriginal.com/docs/api-error-types. The vendor seems to use Django REST Framework, so its forms are read as
    well: `{"detail": "…"}`, `{"field": ["…"]}`, `{"non_field_errors": ["…"]}`.
    """
    try:
        body = loads(answer.body)
    except UnexpectedResponse:
        text = answer.body.lstrip()
        body = text.decode("utf-8", "replace") if text[:1] not in {b"<", b"{", b"["} else None
    error = body.get("error") if isinstance(body, dict) else None
    details = list(islice(_field_errors(body), _MAX_DETAILS))
    return Refusal(
        message="; ".join(f"{each.field}: {each.message}" if each.field else each.message for each in details if each.message),
        code=next((each.code for each in details if each.code), None),
        details=details,
        request_id=answer.headers.get("X-Request-Id"),
        invalid=isinstance(error, dict) and error.get("type") == "validation_error",
    )


def _field_errors(value: Any, field: str = "", depth: int = 0) -> Iterator[FieldError]:
    """Yield every error in a body, in whatever form it is written."""
    if isinstance(value, str):
        yield FieldError(field=field, message=value)
    elif depth > _MAX_DEPTH:
        return
    elif isinstance(value, list):
        for each in value:
            yield from _field_errors(each, field, depth + 1)
    elif isinstance(value, dict):
        own = {name: each for name in _ERROR_MEMBERS if isinstance(each := value.get(name), str)}
        if own:
            yield FieldError(field=own.get("field_name") or field, message=own.get("message", ""), code=own.get("code") or None)
        for name, each in value.items():
            extra = bool(own) and isinstance(each, str) and name not in _NO_FIELDS  # such as a link to the documents
            if name not in own and name not in _NO_ERRORS and not extra:
                yield from _field_errors(each, field if name in _NO_FIELDS else name, depth + 1)
