"""Settings of a listener, as the options of `serve` describe them; times in seconds."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from rewards_core.base_urls import is_loopback
from rewards_core.keys import read_secret_file
from rewards_core.operations import DEFAULT_SCOPE
from rewards_core.secrets import Secret
from rewards_core.validation import whole
from webhooks.cli.hosts import AllowedHosts
from webhooks.cli.sources import SourceSpec
from webhooks.cli.unix_socket import UnixSettings
from webhooks.handlers import HandlerPolicy
from webhooks.ingress.limits import ServerLimits
from webhooks.ingress.queue_url import parse_queue_url
from webhooks.store.records import DEAD_DAYS
from webhooks.store.urls import StoreUrl

MAX_WORKERS = 64
FORWARD_ATTEMPTS = 20
_UNLIMITED = 10**9
_TLS_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@frozen(kw_only=True)
class TlsSettings:
    """The certificate, and the oldest supported TLS version; `key` is None if the certificate's file contains it."""

    certificate: Path
    key: Path | None = None
    minimum: str = "1.2"

    def context(self) -> ssl.SSLContext:
        """Return the server's TLS context.

        Raises:
            ValueError: the version or a file is invalid.
        """
        if self.minimum not in _TLS_VERSIONS:
            raise ValueError(f"--tls-min: {self.minimum[:20]!a} is not supported. Give 1.2 or 1.3.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _TLS_VERSIONS[self.minimum]
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Load the certificate; it is used for new connections.

        Raises:
            ValueError: a file is invalid.
        """
        try:
            for each in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):  # a failure leaves a context without a key
                each.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as problem:
            raise ValueError(
                f"--tls-cert: {self.certificate} cannot be used ({type(problem).__name__}). Give a PEM file with the certificate "
                "chain, and its private key in the same file or with --tls-key."
            ) from None


@frozen(kw_only=True)
class AdminSettings:
    """The admin port; it needs a token if other machines can reach its host."""

    host: str = "127.0.0.1"
    port: int = 8481
    token_file: Path | None = None
    allowed_hosts: Sequence[str] = ()

    def hosts(self) -> AllowedHosts:
        """Return the host names of the port; raises `ValueError` if one is invalid."""
        return AllowedHosts(self.host, self.allowed_hosts)

    def token(self) -> Secret | None:
        """Return the token; None if none is configured.

        Raises:
            ValueError: the token cannot be read, or is required but not configured.
        """
        if self.token_file is None:
            if not is_loopback(self.host):
                raise ValueError(
                    f"--admin-host: {self.host!a} can be reached from other machines. Give --admin-token-file, so that they need "
                    "a token, or a loopback address such as 127.0.0.1."
                )
            return None
        return admin_token(self.token_file)


def admin_token(file: Path) -> Secret:
    """Return the token of the admin port; raises `ValueError` if the file cannot be read or contains no token."""
    return Secret(read_secret_file(file, "the admin token").strip(), f"admin token in {file}")


@frozen(kw_only=True)
class PollSettings:
    """Polling of operations that no delivery has settled."""

    scope: str = DEFAULT_SCOPE
    first_after: float = 15.0
    max_per_second: float = 20.0
    allow_insecure: bool = False


@frozen(kw_only=True)
class ForwardSettings:
    """Forwarding of deliveries; `attempts` is None for 20, or for no limit if `give_up_after` is set."""

    url: str = field(repr=False)  # credentials in it are refused, but only later
    allow_insecure: bool = False
    attempts: int | None = None
    timeout: float = 20.0
    give_up_after: float | None = None

    @property
    def handlers(self) -> HandlerPolicy:
        """The policy of the forwarding handlers; attempts interrupted by a crash are retried after three times the timeout."""
        attempts = self.attempts or (FORWARD_ATTEMPTS if self.give_up_after is None else _UNLIMITED)
        return HandlerPolicy(
            attempts=attempts, timeout=1.5 * self.timeout, lease=3.0 * self.timeout, give_up_after=self.give_up_after
        )


@frozen(kw_only=True)
class ConsumerSettings:
    """The queue that a consumer takes deliveries from."""

    url: str = field(repr=False)  # credentials in it are refused, but only later
    region: str | None = None
    endpoint: str | None = None
    allow_insecure: bool = False
    concurrency: int = 4
    visibility: int = 60

    def check(self, argument: str) -> str:
        """Return the queue's name; raises `ValueError`, which names the argument that holds the URL, if an address is invalid."""
        return parse_queue_url(
            self.url,
            region=self.region,
            endpoint=self.endpoint,
            allow_insecure=self.allow_insecure,
            name=argument,
            allowed_by="--endpoint-insecure",
        ).name


def store_url(url: str | StoreUrl) -> StoreUrl:
    """Return the store of `--store`; raises `ValueError` if the URL names none, or one whose extra is not installed."""
    return url if isinstance(url, StoreUrl) else StoreUrl(url, "--store")


@frozen(kw_only=True)
class ListenerSettings:
    """All settings of a listener; with workers, `limits` apply to each."""

    sources: Sequence[SourceSpec]
    store: StoreUrl = field(converter=store_url)
    host: str = "127.0.0.1"
    port: int = 8480
    unix: UnixSettings | None = None
    tls: TlsSettings | None = None
    admin: AdminSettings | None = None
    forward: ForwardSettings | None = None
    poll: PollSettings | None = None
    limits: ServerLimits = field(factory=ServerLimits)
    max_body: int = 262_144
    body_timeout: float = 20.0
    trusted: Sequence[str] = ()
    allowed: Sequence[str] = ()
    drain_seconds: float = 20.0
    keep_days: float = 30.0
    keep_bodies_days: float | None = None
    keep_dead_days: float = DEAD_DAYS
    console: bool = False
    workers: int = field(default=1, validator=whole(at_least=1, at_most=MAX_WORKERS))

    @property
    def paths(self) -> Sequence[str]:
        """The path of each source, once."""
        return sorted({spec.path for spec in self.sources})

    def startup_record(self, where: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record that is printed at the start; `where` says where deliveries come from and what is served."""
        return {
            "store": str(self.store),
            **where,
            "polling": self.poll is not None,
            "poll_scope": None if self.poll is None else self.poll.scope,
            "forward_to": None if self.forward is None else self.forward.url,
        }
