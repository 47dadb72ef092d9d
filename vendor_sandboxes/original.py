"""Original on aiohttp: payments and assets that a blockchain finishes later, with webhooks and faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vendor_sandboxes.faults import UNANSWERED_COMMIT
from vendor_sandboxes.options import OriginalOptions
from vendor_sandboxes.original_auth import Credentials
from vendor_sandboxes.original_events import app_of
from vendor_sandboxes.original_replies import Refused, client_error, created, server_error
from vendor_sandboxes.original_routes import Routes
from vendor_sandboxes.original_state import OriginalState, Payment
from vendor_sandboxes.original_users import User
from vendor_sandboxes.original_webhooks import Delivery, WebhookSender
from vendor_sandboxes.scheduler import Scheduler
from vendor_sandboxes.server import FAULT, Sandbox

if TYPE_CHECKING:
    from aiohttp import web

    from vendor_sandboxes.original_operations import Operation

API_KEY = "sandboxkey01"
API_SECRET = "sandbox-api-secret-of-more-than-thirty-two-characters"  # noqa: S105 - opens nothing but the sandbox
APP_UID = "UB2DG8MW5KBQ"
WEBHOOK_KEYS = {"4o3vfxtcmo7b": "sandbox-webhook-secret-one"}
REWARDS = ("764893807463", "112144981245", "708469717542", "151854912345")
COLLECTIONS = ("471616646163", "221137489875")
_DEPLOYMENTS = ("collection", "reward")


class OriginalSandbox(Sandbox):
    """Original on its own port.

    Args:
        host: Address to listen on.
        port: Port, 0 for any free one.
        api_key: The key in `X-API-KEY`.
        api_secret: The secret that signs tokens.
        app_uid: The app in the webhooks.
        webhook_url: Where webhooks are sent, or None; `sandbox.webhook_url` may be set while it runs.
        webhook_keys: Key id to webhook secret; every key signs.
        webhook_attempts: Maximum number of attempts to deliver one event.
        webhook_backoff: Seconds before the second attempt, doubling from then on.
        rewards: Uids of the reward contracts.
        collections: Uids of the deployed collections, whose assets can be edited.
        seed: Equal seeds give equal uids and faults.
        clock: Returns Unix time.
        options: Any attribute of `OriginalOptions`; change them later on `sandbox.options`.

    Attributes:
        options: The options, which may be changed while it runs.
        requests: The latest requests; credentials are not kept.
    """

    prefix = "/v1"
    options_type = OriginalOptions

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
        collections: Iterable[str] = COLLECTIONS,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        **options: Any,
    ) -> None:
        self.options = OriginalOptions(**options)
        super().__init__(self.options, host=host, port=port, seed=seed, clock=clock)
        self.api_key = api_key
        self.api_secret = api_secret
        self.app_uid = app_uid
        self.state = OriginalState(seed, clock, rewards, collections)
        self._retries = Scheduler(self.changed)
        self.webhooks = WebhookSender(
            webhook_url,
            webhook_keys,
            app_of(app_uid),
            plan=self.plan,
            scheduler=self._retries,
            clock=clock,
            attempts=webhook_attempts,
            backoff=webhook_backoff,
            changed=self.changed,
        )
        self._routes = Routes(self.state, self.options, Credentials(api_key, api_secret, clock), self._commit, clock)

    @property
    def webhook_url(self) -> str | None:
        """Where webhooks are sent."""
        return self.webhooks.url

    @webhook_url.setter
    def webhook_url(self, url: str | None) -> None:
        self.webhooks.url = url

    async def aclose(self) -> None:
        """Stop listening and sending; pending operations stay pending."""
        self._retries.close()
        await self.webhooks.aclose()
        await super().aclose()

    def books(self) -> dict[str, Any]:
        """Return the vendor's state as plain JSON values: the body of `GET /_sandbox/books`."""
        return {
            **self.state.report(),
            "webhooks": {"open": self.webhooks.open, **self.webhooks.counts},
            "faults": dict(self.plan.counts),
            "requests": dict(self.request_counts),
            "under_way": self.under_way + self.scheduler.pending,
        }

    async def settle(self, uid: str, status: str = "done", *, kind: str = "allocation") -> None:
        """Settle an operation now, and wait for the first attempt of its webhook, if any.

        Await it here; on an `OriginalServer` it is a plain method.

        Args:
            uid: The operation; for an edit, the asset.
            status: Only `"done"` sends a webhook. Allocations and claims may end in any status; of the others only a transfer may
                end otherwise, as `"cancelled"`.
            kind: `"allocation"`, `"claim"`, `"asset"`, `"edit"`, `"transfer"`, `"burn"`, `"collection"` or `"reward"`.

        Raises:
            KeyError: there is no such operation.
            ValueError: the operation cannot end in this status, or has ended; never for an allocation or claim.
        """
        delivery = self.settle_now(uid, status, kind=kind)
        if delivery is not None:
            await delivery.tried.wait()

    def settle_now(self, uid: str, status: str = "done", *, kind: str = "allocation") -> Delivery | None:
        """Settle an operation as `settle` does, and return its webhook, if any, instead of waiting for it."""
        return self._settle(self.state.operations[kind][uid], status)

    async def deposit(self, asset_uid: str, user_uid: str) -> None:
        """Move an asset from a wallet outside of the app into the user's, and wait for the first attempt of its webhook, if any.

        Await it here; on an `OriginalServer` it is a plain method.

        Raises:
            KeyError: there is no such asset.
            ValueError: the asset is not in a wallet outside of the app.
        """
        delivery = self.deposit_now(asset_uid, user_uid)
        if delivery is not None:
            await delivery.tried.wait()

    def deposit_now(self, asset_uid: str, user_uid: str) -> Delivery | None:
        """Move an asset as `deposit` does, and return its webhook, if any, instead of waiting for it."""
        return self._settle(self.state.assets.deposit(asset_uid, user_uid), "done")

    def deploy_collection(self, uid: str, *, editable: bool = True) -> None:
        """Begin to deploy a collection, which is confirmed like any operation; `editable` tells whether its assets can be edited.

        Raises:
            ValueError: the uid is taken.
        """
        if uid in self.state.assets.collections:
            raise ValueError(f"there is a collection {uid} already")
        self._later(self._confirm, self.state.assets.add_collection(uid, "deploying", editable=editable))

    def deploy_reward(self, uid: str) -> None:
        """Begin to deploy a reward contract, which is confirmed like any operation; no webhook reports it.

        Raises:
            ValueError: the uid is taken.
        """
        if uid in self.state.rewards:
            raise ValueError(f"there is a reward {uid} already")
        self._later(self._confirm, self.state.add_reward(uid, "deploying"))

    async def unconfirmed(self, timeout: float) -> list[Operation]:
        """Return the operations that can still end after all confirmations that are due within `timeout` seconds."""
        await self.until(lambda: self.scheduler.is_calm(timeout))
        return [operation for operation in self.state.pending() if not operation.stuck]

    async def delivered(self, timeout: float = 30.0) -> None:
        """Wait until every event is accepted, lost or given up, for at most `timeout` seconds."""
        await self.until(lambda: self.webhooks.open == 0, timeout)

    @property
    def busy(self) -> bool:
        """Whether a request, confirmation or webhook is pending."""
        return super().busy or bool(self.webhooks.open)

    def _settle(self, operation: Operation, status: str) -> Delivery | None:
        self.state.settle(operation, status)
        delivery = None
        if operation.done:
            delivery = self.webhooks.emit(operation, self.options)
        self.changed()
        return delivery

    def _confirm(self, operation: Operation) -> None:
        if not operation.pending:
            return
        if isinstance(operation, Payment):
            if self.plan.happens("fail_then_done"):
                self._later(self._complete_after_all, operation)
                self._settle(operation, "failed")
            else:
                self._settle(operation, "failed" if self.plan.happens("fail_rate") else "done")
        elif operation.kind == "transfer":
            self._settle(operation, "cancelled" if self.plan.happens("cancel_rate") else "done")
        elif operation.kind not in _DEPLOYMENTS and self.plan.happens("fail_rate"):
            operation.stuck = True
        else:
            self._settle(operation, "done")

    def _complete_after_all(self, operation: Operation) -> None:
        if operation.status == "failed":
            self._settle(operation, "done")

    def _later(self, action: Callable[[Operation], None], operation: Operation) -> None:
        confirm = self.options.confirm
        if confirm is not None:
            self.scheduler.call_later(self.plan.between("confirm", confirm), action, operation)

    async def _commit(
        self, write: Callable[[], Operation | User], reply: Callable[[str], web.Response] = created, /
    ) -> web.Response:
        if self.options.commit_late and FAULT.get() in UNANSWERED_COMMIT:
            self.plan.counts["commit_late"] += 1
            self.scheduler.call_later(self.options.commit_late, self._commit_late, write)
            return self.overloaded()
        written = write()
        delivery = self._begin(written)
        if delivery is not None:
            await delivery.tried.wait()
        return reply(written.uid)

    def _commit_late(self, write: Callable[[], Operation | User]) -> None:
        try:
            written = write()
        except Refused:
            # Something else was committed in the meantime, such as a repetition with the same nonce.
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
        """Return a 429 in the vendor's envelope; its documentation has none."""
        reply = client_error(429, "throttled", f"Request was throttled. Expected available in {retry_after} seconds.").reply()
        reply.headers["Retry-After"] = retry_after
        return reply

    async def answer(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> web.Response:
        """Handle a request."""
        return await self._routes.answer(method, path, request, body)
