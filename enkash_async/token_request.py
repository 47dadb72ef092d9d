"""One token request: what is sent, and which answers to it are EnKash's own.

A proxy, a maintenance page or a wrong address answers too. Such an answer is no refusal: if it were taken for one, a single
redirect would end all token requests of all processes until somebody empties the breaker file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enkash_async.credentials import AccessToken, PasswordCredentials, read_token
from enkash_async.envelope import names_failure, read_object, read_refusal
from rewards_core.errors import RequestRejected, UnexpectedResponse
from rewards_core.http.calls import Met, Trouble
from rewards_core.http.messages import Answer, Effect, Request
from rewards_core.http.transport import Transport

_CLEAR = frozenset({407, 408, 429})
"""The 4xx whose meaning does not depend on a body."""
_OAUTH_REFUSALS = frozenset(
    {"access_denied", "invalid_client", "invalid_grant", "invalid_request", "invalid_scope", "invalid_token", "unauthorized"}
    | {"unauthorized_client", "unsupported_grant_type"}
)
"""What a token endpoint calls a refusal (RFC 6749, section 5.2), and what Spring adds to that."""


_TROUBLE = ("server_error", "temporarily_unavailable")
"""OAuth errors that say nothing about the credentials."""


class TokenTransport(Transport):
    """Carry token requests to an endpoint that answers in JSON."""

    async def exchange(self, request: Request[Any], headers: Mapping[str, str], timeout: float) -> Answer | Trouble:
        """Send one attempt; what the token endpoint itself did not answer leaves it unanswered."""
        answer = await super().exchange(request, headers, timeout)
        if isinstance(answer, Answer) and _is_foreign(answer):
            return Trouble(Met.UNREADABLE, f"HTTP {answer.status}, which is no answer of a token endpoint", answer.status)
        return answer


async def ask_for_token(transport: TokenTransport, credentials: PasswordCredentials) -> AccessToken:
    """Send one token request; it is not repeated once it may have arrived.

    Raises:
        OutcomeUnknown: it was not answered, or not by a token endpoint, and may have counted; `status` is what came.
        RequestRejected: it was refused.
        ConnectFailed: it never left.
        RateLimited: EnKash asked to wait for longer than there was time.
        ConfigurationError: the borrowed session cannot send it.
    """
    return await transport.call(
        Request(
            operation="token",
            method="POST",
            url=transport.url("oauth", "token"),
            effect=Effect.BARE,
            read=lambda answer: _read(answer, credentials),
            body=credentials.form(),
            deadline=transport.deadline(),
        )
    )


def _is_foreign(answer: Answer) -> bool:
    """Return whether somebody else than the token endpoint answered, such as a gateway, a login page or a wrong address."""
    if 300 <= answer.status < 400:
        return True
    if not 400 <= answer.status < 500 or answer.status in _CLEAR:
        return False
    reply = read_object(answer.body)
    if reply is None:
        return answer.status != 401 or answer.body.lstrip()[:1] == b"<"
    if reply.get("error") in _TROUBLE:
        return True
    return not (answer.status in {400, 401} or _is_oauth_error(reply) or (answer.status in {403, 422} and names_failure(reply)))


def _is_oauth_error(reply: Mapping[str, Any]) -> bool:
    error = reply.get("error")
    return isinstance(error, str) and error.lower() in _OAUTH_REFUSALS


def _read(answer: Answer, credentials: PasswordCredentials) -> AccessToken:
    reply = read_object(answer.body)
    if reply is None:
        raise UnexpectedResponse(f"HTTP {answer.status} without a JSON object")
    token = read_token(reply)
    if token is not None:
        return token
    if not (names_failure(reply) or _is_oauth_error(reply)):
        raise UnexpectedResponse(f"HTTP {answer.status} with neither a token nor a refusal")
    refusal = read_refusal(answer, credentials.secrets)
    words = refusal.message or "no reason given"
    raise RequestRejected(f"HTTP {answer.status}: {words}", code=refusal.code, details=refusal.details)
