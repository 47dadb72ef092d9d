"""What a listener is told."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen

from rewards_core.keys import read_secret_file
from rewards_core.operations import DEFAULT_SCOPE
from rewards_core.secrets import Secret
from rewards_core.validation import is_loopback, whole
from webhooks.cli.hosts import Hosts
from webhooks.cli.sources import SourceSpec
from webhooks.cli.unix_socket import UnixSettings
from webhooks.handlers import HandlerPolicy
from webhooks.ingress.limits import ArmourLimits
from webhooks.store.records import DEAD_DAYS

MAX_WORKERS = 64
FORWARD_ATTEMPTS = 20
_ANY_NUMBER = 10**9
_TLS_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@frozen(kw_only=True)
class TlsSettings:
    """The certificate to show, and the oldest TLS to speak.

    Attributes:
        certificate: PEM file of the certificate with its chain.
        key: PEM file of its key, None if it stands in the same file.
        minimum: `"1.2"` or `"1.3"`.
    """

    certificate: Path
    key: Path | None = None
    minimum: str = "1.2"

    def context(self) -> ssl.SSLContext:
        """Return the server's TLS context.

        Raises:
            ValueError: the version is none, or the files cannot be used.
        """
        if self.minimum not in _TLS_VERSIONS:
            raise ValueError(f"--tls-min: {self.minimum[:20]!a} is not supported. Give 1.2 or 1.3.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _TLS_VERSIONS[self.minimum]
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Read the certificate anew; connections made from now on see it.

        Raises:
            ValueError: the files cannot be used.
        """
        try:
            for one in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):  # a failure would leave the context without a key
                one.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as problem:
            raise ValueError(
                f"--tls-cert: {self.certificate} cannot be used ({type(problem).__name__}). Give a PEM file with the certificate "
                "chain, and its private key in the same file or with --tls-key."
            ) from None


@frozen(kw_only=True)
class AdminSettings:
    """Where health and metrics are served.

    Attributes:
        host: Address; one outside this machine needs a token.
        port: 0 takes a free one.
        token_file: Where the token stands that callers show as `Authorization: Bearer`.
        allowed_hosts: Names that it is asked by, beside its addresses and those of loopback; with a port or without.
    """

    host: str = "127.0.0.1"
    port: int = 8481
    token_file: Path | None = None
    allowed_hosts: Sequence[str] = ()

    def hosts(self) -> Hosts:
        """Return the names that the port is asked by.

        Raises:
            ValueError: one of them cannot be a name.
        """
        return Hosts(self.host, self.allowed_hosts)

    def token(self) -> Secret | None:
        """Return the token, None where none is needed.

        Raises:
            ValueError: it cannot be read, or is needed and not given.
        """
        if self.token_file is None:
            if not is_loopback(self.host):
                raise ValueError(
                    f"--admin-host: {self.host!a} can be reached from other machines. Give --admin-token-file to demand a token "
                    "from them, or a loopback address such as 127.0.0.1."
                )
            return None
        return admin_token(self.token_file)


def admin_token(file: Path) -> Secret:
    """Return the token of the admin port.

    Raises:
        ValueError: it cannot be read, or is none.
    """
    return Secret(read_secret_file(file, "the admin token").strip(), f"admin token in {file}")


@frozen(kw_only=True)
class PollSettings:
    """How the listener asks the vendor about operations that no delivery settled.

    Attributes:
        scope: The scope of the client's operations.
        first_after: Seconds before the first poll of an operation.
        max_per_second: Polls per second at most.
        allow_insecure: Whether the API may be plain http outside this machine.
    """

    scope: str = DEFAULT_SCOPE
    first_after: float = 15.0
    max_per_second: float = 20.0
    allow_insecure: bool = False


@frozen(kw_only=True)
class ForwardSettings:
    """Where deliveries are handed on to.

    Attributes:
        url: The other service.
        allow_insecure: Whether plain http may leave this machine.
        attempts: Tries before a delivery becomes a dead letter; None for 20, or for any number where the time is limited.
        timeout: Seconds one try may take.
        give_up_after: Seconds after the first try within which the next one must begin, else it becomes a dead letter.
    """

    url: str = field(repr=False)  # credentials in it are refused, and must not show before
    allow_insecure: bool = False
    attempts: int | None = None
    timeout: float = 20.0
    give_up_after: float | None = None

    @property
    def handlers(self) -> HandlerPolicy:
        """How the handlers that hand on are run; what a crash leaves is tried again after three times the timeout."""
        attempts = self.attempts or (FORWARD_ATTEMPTS if self.give_up_after is None else _ANY_NUMBER)
        return HandlerPolicy(
            attempts=attempts, timeout=1.5 * self.timeout, lease=3.0 * self.timeout, give_up_after=self.give_up_after
        )


@frozen(kw_only=True)
class ListenerSettings:
    """Everything a listener is told; times in seconds.

    Attributes:
        sources: Whose deliveries it takes, and where.
        store: URL of the store.
        host: Address to listen on.
        port: Port to listen on, 0 takes a free one; None with `unix`.
        unix: Unix socket to listen on instead.
        tls: Certificate, None for plain http.
        admin: Where health and metrics are served, None for nowhere.
        forward: Where deliveries are handed on to, None for nowhere.
        poll: How the vendor is asked, None for never.
        limits: What one peer may take.
        max_body: Bytes of the longest body.
        body_timeout: How long a body may take.
        trusted: Proxies whose `X-Forwarded-For` is believed.
        allowed: Who may deliver; empty for everybody.
        drain_seconds: How long stopping may take.
        keep_days: How long events that are done with, and outcomes, are kept.
        keep_bodies_days: How long the bodies of done events are kept; None as long as the events.
        keep_dead_days: How long dead letters are kept after their receipt, at least 14.
        workers: Processes that take deliveries, 1 to 64; `limits` are those of each.
    """

    sources: Sequence[SourceSpec]
    store: str
    host: str = "127.0.0.1"
    port: int = 8480
    unix: UnixSettings | None = None
    tls: TlsSettings | None = None
    admin: AdminSettings | None = None
    forward: ForwardSettings | None = None
    poll: PollSettings | None = None
    limits: ArmourLimits = field(factory=ArmourLimits)
    max_body: int = 262_144
    body_timeout: float = 20.0
    trusted: Sequence[str] = ()
    allowed: Sequence[str] = ()
    drain_seconds: float = 20.0
    keep_days: float = 30.0
    keep_bodies_days: float | None = None
    keep_dead_days: float = DEAD_DAYS
    workers: int = field(default=1, validator=whole(at_least=1, at_most=MAX_WORKERS))
