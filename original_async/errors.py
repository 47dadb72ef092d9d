"""What Original's error bodies say, and how its operations fail."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from rewards_core.errors import FieldError, OperationFailed, UnexpectedResponse
from rewards_core.http.messages import Answer, Refusal
from rewards_core.json import loads

if TYPE_CHECKING:
    from original_async.models import Allocation, Claim

_MAX_DETAILS, _DEEPEST = 50, 5
_ABOUT_THE_ANSWER = frozenset({"success", "status", "status_code", "type", "data"})
_OF_ONE_ERROR = ("field_name", "message", "code")
_NO_FIELDS = frozenset(
    {"detail", "details", "error", "errors", "message", "messages", "msg", "title", "description", "non_field_errors", "__all__"}
)


class AllocationFailed(OperationFailed):
    """The chain said that an allocation failed.

    Attributes:
        operation: The allocation, `failed`.
    """

    operation: Allocation


class ClaimFailed(OperationFailed):
    """The chain said that a claim failed.

    Attributes:
        operation: The claim, `failed`.
    """

    operation: Claim


def read_refusal(answer: Answer) -> Refusal:
    """Read what an error body says; a body that says nothing readable says nothing.

    The envelope is documented: `error.detail` is one object or a list of them, see
    https://docs.getoriginal.com/docs/api-error-types. The forms of Django REST Framework, on which the vendor seems to be built,
    are read as well: `{"detail": "…"}`, `{"field": ["…"]}`, `{"non_field_errors": ["…"]}`; and a general message beside them.
    """
    try:
        body = loads(answer.body)
    except UnexpectedResponse:
        text = answer.body.lstrip()
        body = text.decode("utf-8", "replace") if text[:1] not in {b"<", b"{", b"["} else None
    error = body.get("error") if isinstance(body, dict) else None
    details = [
        FieldError(field=field, message=message, code=code or None) for field, message, code in islice(_said(body), _MAX_DETAILS)
    ]
    return Refusal(
        message="; ".join(f"{each.field}: {each.message}" if each.field else each.message for each in details if each.message),
        code=next((each.code for each in details if each.code), None),
        details=details,
        request_id=answer.headers.get("X-Request-Id"),
        invalid=isinstance(error, dict) and error.get("type") == "validation_error",
    )


def _said(value: Any, field: str = "", depth: int = 0) -> Iterator[tuple[str, str, str]]:
    """Yield field, message and code of everything an error body says, in whatever form it does."""
    if isinstance(value, str):
        yield field, value, ""
    elif depth > _DEEPEST:
        return
    elif isinstance(value, list):
        for each in value:
            yield from _said(each, field, depth + 1)
    elif isinstance(value, dict):
        own = {name: each for name in _OF_ONE_ERROR if isinstance(each := value.get(name), str)}
        if own:
            yield own.get("field_name") or field, own.get("message", ""), own.get("code", "")
        for name, each in value.items():
            beside = bool(own) and isinstance(each, str) and name not in _NO_FIELDS  # such as a link to the documents
            if name not in own and name not in _ABOUT_THE_ANSWER and not beside:
                yield from _said(each, field if name in _NO_FIELDS else name, depth + 1)
