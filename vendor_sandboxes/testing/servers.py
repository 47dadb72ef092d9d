"""Sandboxes that run in a thread, so that synchronous and asynchronous tests use them in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vendor_sandboxes.enkash import EnkashSandbox
from vendor_sandboxes.original import OriginalSandbox
from vendor_sandboxes.original_state import Payment
from vendor_sandboxes.server import Sandbox

if TYPE_CHECKING:
    from vendor_sandboxes.options import EnkashOptions, OriginalOptions
    from vendor_sandboxes.original_operations import Operation
    from vendor_sandboxes.server import ReceivedRequest
    from vendor_sandboxes.testing.thread import LoopThread

S = TypeVar("S", bound=Sandbox)

_CONFIRMING = 1.0


class SandboxServer(Generic[S]):
    """A sandbox in a thread. Its methods may be called from any thread, inside and outside event loops."""

    def __init__(self, sandbox: S, thread: LoopThread) -> None:
        self._sandbox = sandbox
        self._thread = thread

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return self._sandbox.url

    @property
    def requests(self) -> Sequence[ReceivedRequest]:
        """The requests received so far; credentials are not kept."""
        return self._thread.call(tuple, self._sandbox.requests)

    def script(self, *faults: str, method: str = "POST", path: str = "") -> None:
        """Set one fault for each of the next requests. A test fails at teardown if no request used one up.

        Args:
            faults: Names of options such as `"drop_after_commit"`, or `"none"` for a request without a fault.
            method: Only requests with this method use up a fault.
            path: Only requests whose path contains this text use up a fault.

        Raises:
            ValueError: a name is not that of a fault that can hit a request.
        """
        self._thread.call(self._sandbox.script, *faults, method=method, path=path)

    def books(self) -> dict[str, Any]:
        """Return everything that the vendor knows, as plain JSON values."""
        return self._thread.call(self._sandbox.books)

    async def quiet(self, timeout: float = 30.0) -> None:
        """Wait until no request, confirmation or webhook is pending.

        Raises:
            TimeoutError: something is still pending after `timeout` seconds.
        """
        await self._thread.wait_for(self._sandbox.quiet(timeout))

    def wait_until_quiet(self, timeout: float = 30.0) -> None:
        """As `quiet`, for synchronous tests: the calling thread is blocked.

        Raises:
            TimeoutError: something is still pending after `timeout` seconds.
        """
        self._thread.run(self._sandbox.quiet(timeout))

    def left_over(self) -> list[str]:
        """Return a line for each thing that a test has left unfinished; at teardown it fails the test."""
        return [
            f'script("{step.fault}") hit no request: no {step.method} {step.path or "request"} came after it.'
            for step in self._thread.call(tuple, self._sandbox.plan.steps)
        ]


class OriginalServer(SandboxServer[OriginalSandbox]):
    """The sandbox of Original in a thread."""

    @property
    def options(self) -> OriginalOptions:
        """The options, which may be changed while it runs."""
        return self._sandbox.options

    @property
    def environment(self) -> Mapping[str, str]:
        """`ORIGINAL_API_KEY`, `ORIGINAL_API_SECRET`, `ORIGINAL_BASE_URL` and `ORIGINAL_WEBHOOK_KEYS`."""
        return {
            "ORIGINAL_API_KEY": self._sandbox.api_key,
            "ORIGINAL_API_SECRET": self._sandbox.api_secret,
            "ORIGINAL_BASE_URL": self._sandbox.url,
            "ORIGINAL_WEBHOOK_KEYS": webhook_keys(self._sandbox.webhooks.keys),
        }

    @property
    def webhook_url(self) -> str | None:
        """Where webhooks are sent, None for nowhere; may be set at any time."""
        return self._sandbox.webhook_url

    @webhook_url.setter
    def webhook_url(self, url: str | None) -> None:
        self._thread.call(setattr, self._sandbox, "webhook_url", url)

    def settle(self, uid: str, status: str = "done", *, kind: str = "allocation") -> None:
        """Settle an operation now; if it is done, its webhook follows.

        This is a plain method; that of `OriginalSandbox` is awaited.

        Args:
            uid: The operation; for an edit, the asset.
            status: Only `"done"` sends a webhook. Allocations and claims may end in any status, such as `"failed"`; of the others
                only a transfer may end otherwise, as `"cancelled"`.
            kind: `"allocation"`, `"claim"`, `"asset"`, `"edit"`, `"transfer"`, `"burn"`, `"collection"` or `"reward"`.

        Raises:
            KeyError: there is no such operation.
            ValueError: the operation cannot end in this status, or has ended; never for an allocation or claim.
        """
        self._thread.call(self._sandbox.settle_now, uid, status, kind=kind)

    def deposit(self, asset_uid: str, user_uid: str) -> None:
        """Move an asset from a wallet outside of the app into the user's; its webhook follows.

        This is a plain method; that of `OriginalSandbox` is awaited.

        Raises:
            KeyError: there is no such asset.
            ValueError: the asset is not in a wallet outside of the app.
        """
        self._thread.call(self._sandbox.deposit_now, asset_uid, user_uid)

    def deploy_collection(self, uid: str, *, editable: bool = True) -> None:
        """Begin to deploy a collection, which is confirmed like any operation; `editable` tells whether its assets can be edited.

        Raises:
            ValueError: the uid is taken.
        """
        self._thread.call(self._sandbox.deploy_collection, uid, editable=editable)

    def deploy_reward(self, uid: str) -> None:
        """Begin to deploy a reward contract, which is confirmed like any operation; no webhook reports it.

        Raises:
            ValueError: the uid is taken.
        """
        self._thread.call(self._sandbox.deploy_reward, uid)

    async def delivered(self, timeout: float = 30.0) -> None:
        """Wait until operations that are about to be confirmed are, and every webhook is accepted, lost or given up.

        Raises:
            TimeoutError: one is still open after `timeout` seconds.
        """

        async def delivered() -> None:
            await self._sandbox.unconfirmed(_CONFIRMING)
            await self._sandbox.delivered(timeout)

        await self._thread.wait_for(delivered())

    def left_over(self) -> list[str]:
        """Return a line for each thing that a test has left unfinished; at teardown it fails the test."""
        sandbox = self._sandbox
        pending = [] if sandbox.options.confirm is None else self._thread.run(sandbox.unconfirmed(_CONFIRMING))
        refused = self._thread.call(sandbox.webhooks.refused.copy)
        return [
            *super().left_over(),
            *(f'{_told(each)} is still pending: wait for it, settle it, or use confirm="never".' for each in pending),
            *(
                f"{sandbox.webhook_url} answered a webhook with HTTP {status} and never accepted it."
                for status in refused.values()
            ),
        ]


class EnkashServer(SandboxServer[EnkashSandbox]):
    """The sandbox of EnKash in a thread."""

    @property
    def options(self) -> EnkashOptions:
        """The options, which may be changed while it runs."""
        return self._sandbox.options

    @property
    def environment(self) -> Mapping[str, str]:
        """`ENKASH_COINS_BASE_URL`, `ENKASH_AUTH_BASE_URL` and the four credentials."""
        return {
            "ENKASH_COINS_BASE_URL": self._sandbox.url,
            "ENKASH_AUTH_BASE_URL": self._sandbox.url,
            "ENKASH_CLIENT_ID": self._sandbox.client_id,
            "ENKASH_CLIENT_SECRET": self._sandbox.client_secret,
            "ENKASH_USERNAME": self._sandbox.username,
            "ENKASH_PASSWORD": self._sandbox.password,
        }

    @property
    def funds(self) -> int | None:
        """Coins that the company can still give, None for no limit; may be set at any time."""
        return self._sandbox.funds

    @funds.setter
    def funds(self, funds: int | None) -> None:
        self._thread.call(setattr, self._sandbox, "funds", funds)

    def expire_tokens(self) -> None:
        """Expire every token."""
        self._thread.call(self._sandbox.expire_tokens)


def _told(operation: Operation) -> str:
    told = f"{operation.kind.capitalize()} {operation.uid}"
    if isinstance(operation, Payment) and operation.kind == "allocation":
        return f"{told} of {operation.amount} to {operation.user_uid}"
    return told


def webhook_keys(keys: Mapping[str, str]) -> str:
    """Return the value of `ORIGINAL_WEBHOOK_KEYS` for these keys."""
    return ",".join(f"{key_id}:{secret}" for key_id, secret in keys.items())
