"""What all packages share: errors, operations, settings and the call engine of the vendors' clients.

You catch its errors and give its settings to clients; you seldom call it. Every error is a `RewardsError`, and that of a call
to a vendor a `VendorError`; `OutcomeUnknown` says that the request may have been carried out. `Timeouts`, `RetryPolicy` and
`Limits` are settings of a client, and `CallSpans` observes its calls. The client of another vendor implements
`OperationReader`, and its webhooks `EventSource`.
"""

from typing import TYPE_CHECKING

from rewards_core.lazy_imports import lazy_names

if TYPE_CHECKING:
    from rewards_core.backoff import RetryPolicy
    from rewards_core.errors import (
        ClientClosed,
        ConfigurationError,
        Conflict,
        ConnectFailed,
        DeadlineExceeded,
        FieldError,
        Forbidden,
        NotFound,
        OperationCancelled,
        OperationFailed,
        OperationMismatch,
        OutcomeUnknown,
        RateLimited,
        RequestRejected,
        RewardsError,
        ServerFailed,
        SignatureError,
        Unauthorized,
        UnexpectedResponse,
        ValidationFailed,
        VendorError,
    )
    from rewards_core.http.timeouts import Timeouts
    from rewards_core.observe import CallEnded, CallRetried, CallStarted
    from rewards_core.operations import (
        DEFAULT_SCOPE,
        Event,
        EventSource,
        KeyedRequest,
        Operation,
        OperationReader,
        OperationRef,
        OperationStatus,
        Status,
    )
    from rewards_core.rate import Limits
    from rewards_core.secrets import Secret
    from rewards_core.tracing import CallSpans

__all__ = [
    "DEFAULT_SCOPE",
    "CallEnded",
    "CallRetried",
    "CallSpans",
    "CallStarted",
    "ClientClosed",
    "ConfigurationError",
    "Conflict",
    "ConnectFailed",
    "DeadlineExceeded",
    "Event",
    "EventSource",
    "FieldError",
    "Forbidden",
    "KeyedRequest",
    "Limits",
    "NotFound",
    "Operation",
    "OperationCancelled",
    "OperationFailed",
    "OperationMismatch",
    "OperationReader",
    "OperationRef",
    "OperationStatus",
    "OutcomeUnknown",
    "RateLimited",
    "RequestRejected",
    "RetryPolicy",
    "RewardsError",
    "Secret",
    "ServerFailed",
    "SignatureError",
    "Status",
    "Timeouts",
    "Unauthorized",
    "UnexpectedResponse",
    "ValidationFailed",
    "VendorError",
]

if not TYPE_CHECKING:  # else a type checker would believe in every name
    __getattr__ = lazy_names(
        __name__, __all__, ("errors", "operations", "secrets", "observe", "rate", "backoff", "http.timeouts", "tracing")
    )
