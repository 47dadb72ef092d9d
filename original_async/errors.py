"""What Original's error bodies say, and how its operations fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vendor_http.calls import Answer, Refusal
from vendor_http.codec import loads
from vendor_http.errors import FieldError, OperationFailed, UnexpectedResponse
from vendor_http.secrets import hide, one_line

if TYPE_CHECKING:
    from original_async.models import Allocation, Claim

_LONGEST_FIELD = 100


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


def read_refusal(answer: Answer, secrets: tuple[str, ...]) -> Refusal:
    """Read the vendor's error envelope; a body that is none says nothing.

    `error.detail` is one object or a list of them, see https://docs.getoriginal.com/docs/api-error-types.

    Args:
        answer: The refusal.
        secrets: What is hidden from the texts.
    """
    request_id = _text(answer.headers, "X-Request-Id", secrets) or None
    try:
        body = loads(answer.body)
    except UnexpectedResponse:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return Refusal(request_id=request_id)
    detail = error.get("detail")
    details = [each for each in (detail if isinstance(detail, list) else [detail]) if isinstance(each, dict)]
    texts = [
        (_text(each, "field_name", secrets), _text(each, "message", secrets), _text(each, "code", secrets)) for each in details
    ]
    return Refusal(
        message="; ".join(f"{field}: {message}" if field else message for field, message, _ in texts if message),
        code=next((code for _, _, code in texts if code), None),
        field_errors=tuple(
            FieldError(field=field, message=message, code=code or None) for field, message, code in texts if field
        ),
        request_id=request_id,
        invalid=error.get("type") == "validation_error",
    )


def _text(detail: Mapping[str, Any], name: str, secrets: tuple[str, ...]) -> str:
    value = detail.get(name)
    return one_line(hide(value, secrets), 300 if name == "message" else _LONGEST_FIELD) if isinstance(value, str) else ""
