"""Original played on aiohttp: rewards, allocations and claims that a chain finishes later, with webhooks and faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vendor_sandboxes.deliveries import Deliveries, Delivery
from vendor_sandboxes.faults import UNANSWERED_COMMIT
from vendor_sandboxes.original_api import Api
from vendor_sandboxes.original_auth import Credentials
from vendor_sandboxes.original_books import Books, Operation, User
from vendor_sandboxes.original_switches import OriginalSwitches
from vendor_sandboxes.original_words import Refused, client_error, created, server_error
from vendor_sandboxes.serving import FAULT, Sandbox

if TYPE_CHECKING:
    from aiohttp import web

API_KEY = "sandboxkey01"
API_SECRET = "sandbox-api-secret-of-more-than-thirty-two-characters"  # noqa: S105 - opens nothing but the sandbox
APP_UID = "UB2DG8MW5KBQ"
WEBHOOK_KEYS = {"4o3vfxtcmo7b": "sandbox-webhook-secret-one"}
REWARDS = ("764893807463", "112144981245", "708469717542", "151854912345")


class OriginalSandbox(Sandbox):
    """Original on a port of its own.

    Args:
        host: Address to listen on.
        port: Port, 0 for any free one.
        api_key: What `X-API-KEY` must say.
        api_secret: What tokens must be signed with.
        app_uid: The app as webhooks name it.
        webhook_url: Where webhooks go, None for nowhere; `sandbox.webhook_url` may be set while it runs.
        webhook_keys: Key id to webhook secret; every one of them signs.
        webhook_attempts: How many times one event is sent before it is given up.
        webhook_backoff: Seconds before the second attempt, doubling from then on.
        rewards: Uids of the reward contracts that exist.
        seed: Equal seeds give equal uids and faults.
        clock: Seconds since the epoch.
        switches: Any attribute of `OriginalSwitches` and `Faults`; change them later on `sandbox.switches`.
    """

    prefix = "/v1"

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = API_KEY,
        api_secret: str = API_SECRET,
        app_uid: str = APP_UID,
        webhook_url: str | None = None,
        webhook_keys: Mapping[str, str] = WEBHOOK_KEYS,
        webhook_attempts: int = 8,
        webhook_backoff: float = 0.1,
        rewards: Iterable[str] = REWARDS,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        **switches: Any,
    ) -> None:
        self.switches = OriginalSwitches(**switches)
        super().__init__(self.switches, host=host, port=port, seed=seed, clock=clock)
        self.api_key = api_key
        self.api_secret = api_secret
        self.app_uid = app_uid
        self.state = Books(seed, clock, rewards)
        self.deliveries = Deliveries(
            webhook_url,
            webhook_keys,
            {"uid": app_uid, "name": "Sandbox", "region": "EU", "environment": "Development"},
            plan=self.plan,
            agenda=self.agenda,
            clock=clock,
            attempts=webhook_attempts,
            backoff=webhook_backoff,
            changed=self.changed,
        )
        self._api = Api(self.state, self.switches, Credentials(api_key, api_secret, clock), self._commit, clock)

    @property
    def webhook_url(self) -> str | None:
        """Where webhooks go."""
        return self.deliveries.url

    @webhook_url.setter
    def webhook_url(self, url: str | None) -> None:
        self.deliveries.url = url

    async def aclose(self) -> None:
        """Stop listening and sending; operations under way stay where they are."""
        await self.deliveries.aclose()
        await super().aclose()

    def books(self) -> dict[str, Any]:
        """Return what the vendor knows, as plain JSON values: the body of `GET /_sandbox/books`."""
        return {
            **self.state.report(),
            "webhooks": {"open": self.deliveries.open, **self.deliveries.counts},
            "faults": dict(self.plan.counts),
            "requests": dict(self.request_counts),
            "under_way": self.under_way + self.agenda.pending,
        }

    async def settle(self, uid: str, status: str = "done", *, kind: str = "allocation") -> None:
        """Let the chain say now what became of an operation, and wait until its webhook, if any, was tried once.

        Args:
            uid: The operation.
            status: `"done"` sends a webhook; any other word sends none.
            kind: `"allocation"` or `"claim"`.

        Raises:
            KeyError: there is no such operation.
        """
        delivery = self._settle(self.state.operations[kind][uid], status)
        if delivery is not None:
            await delivery.tried.wait()

    async def delivered(self, timeout: float = 30.0) -> None:
        """Wait until every event is accepted, lost or given up.

        Raises:
            TimeoutError: some still stand after `timeout` seconds.
        """
        await self.until(lambda: self.deliveries.open == 0, timeout)

    async def quiet(self, timeout: float = 30.0) -> None:
        """Wait until no request is under way, the chain has nothing left to confirm and no webhook is left to be sent.

        Raises:
            TimeoutError: something still stands after `timeout` seconds.
        """
        await self.until(lambda: not (self.under_way or self.agenda.pending or self.deliveries.open), timeout)

    def _settle(self, operation: Operation, status: str) -> Delivery | None:
        self.state.settle(operation, status)
        delivery = None
        if operation.done:
            delivery = self.deliveries.emit(operation, self.switches)
        self.changed()
        return delivery

    def _confirm(self, operation: Operation) -> None:
        if operation.status != "pending":
            return
        if self.plan.happens("fail_then_done"):
            self._later(self._mend, operation)
            self._settle(operation, "failed")
        else:
            self._settle(operation, "failed" if self.plan.happens("fail_rate") else "done")

    def _mend(self, operation: Operation) -> None:
        if operation.status == "failed":
            self._settle(operation, "done")

    def _later(self, action: Callable[[Operation], None], operation: Operation) -> None:
        confirm = self.switches.confirm
        if confirm is not None:
            self.agenda.later(self.plan.between("confirm", confirm), action, operation)

    async def _commit(self, write: Callable[[], Operation | User]) -> web.Response:
        if self.switches.commit_late and FAULT.get() in UNANSWERED_COMMIT:
            self.plan.counts["commit_late"] += 1
            self.agenda.later(self.switches.commit_late, self._commit_late, write)
            return self.overloaded()
        written = write()
        delivery = self._begin(written)
        if delivery is not None:
            await delivery.tried.wait()
        return created(written.uid)

    def _commit_late(self, write: Callable[[], Operation | User]) -> None:
        try:
            written = write()
        except Refused:
            # What was committed meanwhile, such as a repetition under the same nonce, leaves no room for it.
            self.plan.counts["late_commit_refused"] += 1
        else:
            self._begin(written)

    def _begin(self, written: Operation | User) -> Delivery | None:
        if isinstance(written, User):
            return None
        if self.plan.happens("webhook_before_reply"):
            return self._settle(written, "done")
        self._later(self._confirm, written)
        return None

    def overloaded(self) -> web.Response:
        """Return the vendor's 503."""
        return server_error(503).reply()

    def throttled(self, retry_after: str) -> web.Response:
        """Return a 429 in the vendor's envelope; its documents show none."""
        reply = client_error(429, "throttled", f"Request was throttled. Expected available in {retry_after} seconds.").reply()
        reply.headers["Retry-After"] = retry_after
        return reply

    async def answer(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> web.Response:
        """Do what the request asks and say so."""
        return await self._api.answer(method, path, request, body)
