"""The coin endpoints: bodies are encrypted if EnKash requires it, and answers come in an envelope."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from enkash_async import envelope
from rewards_core.errors import UnexpectedResponse
from rewards_core.http.messages import Answer, Effect, Refusal, Request
from rewards_core.http.transport import Transport
from rewards_core.json import dumps, structure

if TYPE_CHECKING:
    from enkash_async.auth import BearerAuthorizer
    from enkash_async.encryption import BodyCipher
    from enkash_async.models import CoinAllocationRequest, CoinEvent, CoinEventRequest
    from rewards_core.errors import RequestRejected

T = TypeVar("T")


class CoinEndpoints(Transport):
    """Send requests to the coin endpoints, and read their answers.

    Args:
        authorizer: The source of the headers, and of what is redacted from messages.
        cipher: Encrypts and decrypts bodies; None leaves them plain.
        settings: Further arguments of the transport.
    """

    def __init__(self, authorizer: BearerAuthorizer, cipher: BodyCipher | None, **settings: Any) -> None:
        super().__init__(authorizer=authorizer, refusal=self._refusal, **settings)
        self._cipher = cipher
        self._secrets = authorizer.secrets

    def send(
        self,
        operation: str,
        method: str,
        url: Any,
        effect: Effect,
        read: Callable[[Answer], T],
        timeout: float | None,
        asked: CoinEventRequest | CoinAllocationRequest,
        body: Mapping[str, object],
        says_known: Callable[[RequestRejected], bool] | None = None,
        *,
        key: str | None = None,
        advice: str,
    ) -> Coroutine[Any, Any, T]:
        """Make one logical call that writes; it raises as `call`."""
        plain = dumps(body)
        return self.call(
            Request(
                operation=operation,
                method=method,
                url=url,
                effect=effect,
                read=read,
                body=plain if self._cipher is None else self._cipher.encrypt(plain),
                key=key,
                asked=asked,
                says_known=says_known,
                advice=advice,
                deadline=self.deadline(timeout),
            )
        )

    def success(self, answer: Answer) -> envelope.Envelope:
        """Read the envelope of a success."""
        if self._cipher is not None:
            answer = answer._replace(body=self._cipher.decrypt(answer.body))
        return envelope.read_success(answer, self._secrets)

    def event(self, answer: Answer) -> CoinEvent:
        """Read an event."""
        return envelope.read_event(self.success(answer))

    def balance(self, answer: Answer) -> int:
        """Read the coins of a user."""
        return structure(self.success(answer).payload, int, path="payload")

    def _refusal(self, answer: Answer) -> Refusal:
        if self._cipher is not None:
            with suppress(UnexpectedResponse):  # an unreadable body gives an empty refusal
                answer = answer._replace(body=self._cipher.decrypt(answer.body))
        return envelope.read_refusal(answer)
