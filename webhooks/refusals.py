"""Refused deliveries and connections: counted by reason, logged at a limited rate, the last ones kept for the operator."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import asdict, evolve, frozen

from rewards_core.clock import loop_time
from rewards_core.log_limit import LogLimit
from rewards_core.text import one_line
from rewards_core.validation import check_callable, check_instance, check_str, check_whole

MAX_KEPT = 256
"""Maximum number of refusals kept; similar refusals count as one."""

_MAX_KEY_IDS = 8
_LONGEST_WORD = 64
_LONGEST_PATH = 200
_LONGEST_ADVICE = 300  # 256 of the longest refusals are less than 1 MiB of JSON

_LOGGED = frozenset({"reason", "status", "peer", "method", "path", "length", "key_ids"})

_IF_GENUINE = "If the sender is genuine,"

ADVICE: Mapping[str, str] = {
    # refused by the receiver
    "method": "Deliveries use POST. Browsers and health checks use other methods: point health checks elsewhere.",
    "encoding": "The body is compressed, and a signature matches only the bytes that were signed. "
    "Disable request compression in the proxy in front.",
    "size": f"The body is longer than is allowed. {_IF_GENUINE} raise max_body (--max-body).",
    "slow": f"The body did not arrive in time. {_IF_GENUINE} raise body_timeout (--body-timeout).",
    "absent": "No part of the body arrived in time: the sender stalled, or a middleware in front of the receiver consumed the "
    "body and does not pass it on.",
    "read_before": "A middleware in front of the receiver read the body as a stream. Exclude this path from it, or read by "
    "`await request.read()` in aiohttp and by `await request.body()` in Starlette.",
    "broken": "The connection ended inside the body, or the body was framed wrongly. The sender retries; if this continues, "
    "check the proxy in front.",
    "error": "The source failed while it checked the signature. This is a bug in the source; the log shows the error.",
    # refused by the listener's server
    "path": "This path takes no deliveries. Compare it with the URL that the vendor has.",
    "address": f"--allow does not list this address. {_IF_GENUINE} add it; behind a proxy give --trusted-proxy too.",
    "connections": "All connections that --max-connections allows waited for the store. Raise it, serve with --workers, or check "
    "why the disk is slow.",
    "connections_per_peer": "All connections that --max-per-peer allows to this address waited for the store. If it is "
    "your proxy, give it as --trusted-proxy, so that its clients are counted instead.",
    "handshakes_per_peer": "This address had as many unfinished TLS handshakes as --max-per-peer allows, and the oldest was "
    "closed. If it is your proxy, give it as --trusted-proxy.",
    "evicted": "The connection was idle, or slower than others, and was closed to make room: all connections that "
    "--max-connections or --max-per-peer allows, all TLS handshakes, or all memory for bodies, were in use. "
    f"{_IF_GENUINE} it retries.",
    "handshake": "The TLS handshake failed: the peer spoke plain HTTP or an older TLS version, did not trust the certificate, or "
    f"disconnected. {_IF_GENUINE} check the certificate's chain and --tls-min.",
    "header_timeout": f"The headers did not arrive in time. {_IF_GENUINE} raise --header-timeout.",
    "headers_too_large": f"The headers are larger than those of any delivery. {_IF_GENUINE} check what the proxy in front adds.",
    "malformed": f"The request is not valid HTTP. {_IF_GENUINE} check whether it speaks TLS to a plain port.",
    "answer_timeout": "The peer did not read its answer in time. Its delivery may have been stored; when it is repeated, it is "
    "recognized as a duplicate.",
    # refused by the listener's admin port
    "admin_method": "The admin port answers only GET and HEAD, and changes nothing. Use the commands of webhook-listener.",
    "admin_site": "A page of another site made a browser call the admin port. It was shown nothing.",
    "admin_host": "The admin port was called by a name that is not its own; another site may have pointed its name here. If the "
    "name is yours, add it with --admin-allow-host.",
    "admin_token": "Send the token of --admin-token-file as 'Authorization: Bearer TOKEN'.",
    "console_slow": "A page of the console did not read what it was sent, and was disconnected. It reconnects by itself.",
    "console_token": "Open the link that the listener printed when it started, or paste its token into the page. It is new at "
    "each start.",
    "admin_path": "The admin port has /healthz, /readyz, /metrics and /refused, and with --console /console/. Deliveries go to "
    "the other port.",
}
"""What to do about a refusal, by reason; a signature source has its own texts."""

_Key = tuple[str | None, str | None, tuple[str, ...]]
_Kept = dict[_Key, "Refusal"]


@frozen(kw_only=True)
class Refusal:
    """One refused delivery or connection, or several with the same reason, peer, path and key ids.

    It holds nothing of a body. Text from the request is shortened to one line of printable ASCII.

    Attributes:
        reason: One of a fixed set of words, such as `"missing"`; the page on metrics lists them.
        advice: What the refusal means and what to do, in a sentence or two.
        count: The number of such refusals.
        first_at: Unix time of the first refusal.
        last_at: Unix time of the last refusal.
        status: The HTTP status of the last reply, None if the connection was closed without a reply.
        peer: The client's address, None if unknown.
        method: The HTTP method of the last request, None if unknown.
        path: The path without its query, None if the application handles paths.
        length: The last body's length in bytes, as declared or as received, None if unknown.
        key_ids: The ids of the keys that the delivery claims to be signed with, at most 8.
    """

    reason: str
    advice: str
    count: int = 1
    first_at: float
    last_at: float
    status: int | None = None
    peer: str | None = None
    method: str | None = None
    path: str | None = None
    length: int | None = None
    key_ids: Sequence[str] = ()

    @property
    def of_delivery(self) -> bool:
        """Whether it was a delivery or connection to the port that takes them, not a request to the admin port."""
        return not self.reason.startswith(("admin_", "console_"))


class RefusalRing:
    """Keep at most `size` refusals, similar ones as one.

    When it is full, the reason with the most refusals evicts one, so that a flood for one reason does not displace the refusals
    for another. Within a reason, single refusals are evicted first while they are the majority, so that clients with an invented
    address or key id in each request do not displace a sender that retries.
    """

    def __init__(self, size: int = MAX_KEPT) -> None:
        self._size = check_whole(size, "size", at_least=1)
        self._held = 0
        self._by_reason: dict[str, tuple[_Kept, _Kept]] = {}

    def add(self, refusal: Refusal) -> None:
        """Add a refusal that is newer than all others."""
        once, again = self._by_reason.setdefault(refusal.reason, ({}, {}))
        key = (refusal.peer, refusal.path, tuple(refusal.key_ids))
        known = once.pop(key, None) or again.pop(key, None)
        if known is not None:
            again[key] = evolve(refusal, count=known.count + refusal.count, first_at=min(known.first_at, refusal.first_at))
            return
        (once if refusal.count == 1 else again)[key] = refusal
        self._held += 1
        if self._held > self._size:
            self._evict()

    def newest_first(self) -> tuple[Refusal, ...]:
        """Return the refusals, sorted by `last_at`."""
        kept = [each for both in self._by_reason.values() for half in both for each in half.values()]
        return tuple(sorted(kept, key=lambda each: each.last_at, reverse=True))

    def _evict(self) -> None:
        once, again = max(self._by_reason.values(), key=lambda both: len(both[0]) + len(both[1]))
        half = once if len(once) > len(again) else again
        del half[next(iter(half))]
        self._held -= 1


class Refusals:
    """Count refusals by reason, keep the last ones, and log at most one warning a minute for each reason.

    Attributes:
        total: Refusals by reason.
        instead: What to do instead of giving an option of `webhook-listener`, where nobody can; else empty.
    """

    def __init__(self, logger: logging.Logger, *, clock: Callable[[], float] = time.time, instead: str = "") -> None:
        self.total: Counter[str] = Counter()
        self.instead = check_str(instead, "instead")
        self._logger = check_instance(logger, "logger", logging.Logger)
        self._clock = check_callable(clock, "clock")
        self._ring = RefusalRing()
        self._limit = LogLimit(clock=loop_time)  # unsigned requests must not fill the log
        self._observer: Callable[[Refusal], None] | None = None

    def observe(self, observer: Callable[[Refusal], None] | None) -> None:
        """Call this with every refusal from now on; None ends that. It must return quickly and should not raise."""
        self._observer = observer

    def note(
        self,
        reason: str,
        peer: object = None,
        *,
        status: int | None = None,
        method: str | None = None,
        path: str | None = None,
        length: int | None = None,
        key_ids: Iterable[str] = (),
        advice: str = "",
    ) -> None:
        """Add a refusal; the arguments are those of `Refusal`. All but the reason and the advice may come from the request."""
        self.total[reason] += 1
        told = advice or ADVICE.get(reason, "")
        now = self._clock()
        refusal = Refusal(
            reason=reason,
            advice=one_line(self.instead if self.instead and "--" in told else told, _LONGEST_ADVICE),
            first_at=now,
            last_at=now,
            status=status,
            peer=None if peer is None else _printable(str(peer)),
            method=None if method is None else _printable(method),
            path=None if path is None else _printable(path.partition("?")[0].partition("#")[0], _LONGEST_PATH),
            length=length,
            key_ids=tuple(_printable(each) for each, _ in zip(key_ids, range(_MAX_KEY_IDS), strict=False)),
        )
        self._ring.add(refusal)
        if self._observer is not None:
            self._observer(refusal)
        if self._limit.allows(reason):
            self._log(refusal)

    def newest_first(self) -> tuple[Refusal, ...]:
        """Return the last refusals, sorted by `last_at`."""
        return self._ring.newest_first()

    def _log(self, refusal: Refusal) -> None:
        what = " ".join(filter(None, (refusal.method, refusal.path)))
        self._logger.warning(
            "%s%s was %s (%s); %d so far for this reason.%s%s",
            what or ("a connection" if refusal.status is None else "a delivery"),
            f" from {refusal.peer}" if refusal.peer else "",
            "closed" if refusal.status is None else f"answered {refusal.status}",
            refusal.reason,
            self.total[refusal.reason],
            f" It claims the key {', '.join(refusal.key_ids)}." if refusal.key_ids else "",
            f" {refusal.advice}" if refusal.advice else "",
            extra={name: value for name, value in asdict(refusal).items() if name in _LOGGED and value not in (None, ())},
        )


def merged(refusals: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """Merge the refusals of several processes, newest first, into at most as many as one process keeps."""
    ring = RefusalRing()
    for each in sorted(refusals, key=lambda each: each.last_at):
        ring.add(each)
    return ring.newest_first()


def _printable(text: str, limit: int = _LONGEST_WORD) -> str:
    """Return text from a request as a short line of printable ASCII."""
    line = text[: limit + 1]
    return one_line(line if line.isascii() and line.isprintable() else ascii(line)[1:-1], limit)
