"""What was refused, for whoever operates a receiver: counted by reason, told in a line now and then, the last ones kept."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from attrs import asdict, evolve, frozen

from rewards_core.clock import loop_time
from rewards_core.log_limit import LogLimit
from rewards_core.text import one_line
from rewards_core.validation import check_callable, check_instance, check_whole
from webhooks.advice import ADVICE

MAX_KEPT = 256
"""How many refusals are kept; those alike count as one."""

_MAX_KEY_IDS = 8
_LONGEST_WORD = 64
_LONGEST_PATH = 200
_LONGEST_ADVICE = 300  # 256 of the longest refusals are less than 1 MiB of JSON

_LOGGED = frozenset({"reason", "status", "peer", "method", "path", "length", "key_ids"})

_Key = tuple[str | None, str | None, tuple[str, ...]]
_Kept = dict[_Key, "Refusal"]


@frozen(kw_only=True)
class Refusal:
    """What was refused: one delivery or connection, or several alike in reason, peer, path and key ids.

    Nothing of a body is kept, and of the headers only what stands here. What a stranger wrote is shortened to one line of
    printable ASCII.

    Attributes:
        reason: One of a fixed set of words.
        advice: What it means and what to do, a sentence or two.
        count: How many were alike.
        first_at: When the first came, Unix time.
        last_at: When the last came, Unix time.
        status: The HTTP status that the last was answered with; None if its connection was closed without an answer.
        peer: The address that the last came from, None if it is not known.
        method: The HTTP method of the last, None if it is not known.
        path: The path without its query, None where the application has the path.
        length: The body's length in bytes, from the Content-Length of the last or as it arrived; None if it is not known.
        key_ids: The ids of the keys that it claims to be signed with, at most 8.
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


class RefusalRing:
    """Keep the last refusals, those alike as one.

    Where there are too many, the reason that holds most of them gives one up: no flood for one reason washes out what was refused
    for another. Within a reason, what came once goes first for as long as it fills half of the reason's places: strangers who
    invent an address or key id for each request do not wash out a sender that tries again.

    Args:
        size: How many are kept, 1 or more.

    Raises:
        TypeError: `size` is no whole number.
        ValueError: it is below 1.
    """

    def __init__(self, size: int = MAX_KEPT) -> None:
        self._size = check_whole(size, "size", at_least=1)
        self._held = 0
        self._by_reason: dict[str, tuple[_Kept, _Kept]] = {}

    def add(self, refusal: Refusal) -> None:
        """Take in a refusal that came after those that are kept."""
        once, again = self._by_reason.setdefault(refusal.reason, ({}, {}))
        key = (refusal.peer, refusal.path, tuple(refusal.key_ids))
        known = once.pop(key, None) or again.pop(key, None)
        if known is not None:
            again[key] = evolve(refusal, count=known.count + refusal.count, first_at=min(known.first_at, refusal.first_at))
            return
        (once if refusal.count == 1 else again)[key] = refusal
        self._held += 1
        if self._held > self._size:
            self._give_one_up()

    def newest_first(self) -> tuple[Refusal, ...]:
        """Return what is kept, by the time of the last of each."""
        kept = [each for both in self._by_reason.values() for half in both for each in half.values()]
        return tuple(sorted(kept, key=lambda each: each.last_at, reverse=True))

    def _give_one_up(self) -> None:
        once, again = max(self._by_reason.values(), key=lambda both: len(both[0]) + len(both[1]))
        half = once if len(once) > len(again) else again
        del half[next(iter(half))]
        self._held -= 1


class Refusals:
    """Count refusals by reason, keep the last ones, and log at most one line a minute about each reason.

    Args:
        logger: Where the lines go, as warnings.
        clock: Unix time in seconds.

    Attributes:
        total: Reason to number of refusals.

    Raises:
        TypeError: an argument is of another type.
    """

    def __init__(self, logger: logging.Logger, *, clock: Callable[[], float] = time.time) -> None:
        self.total: Counter[str] = Counter()
        self._logger = check_instance(logger, "logger", logging.Logger)
        self._clock = check_callable(clock, "clock")
        self._ring = RefusalRing()
        self._limit = LogLimit(clock=loop_time)  # strangers must not be able to fill the log

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
        """Take in one refusal; the arguments may be a stranger's texts, but for the reason and the advice.

        Args:
            reason: One of a fixed set of words.
            peer: Who was refused.
            status: What it was answered, None if the connection was closed without an answer.
            method: The request's method.
            path: The request's target; its query is left out.
            length: The body's length in bytes.
            key_ids: The ids of the keys that it claims to be signed with.
            advice: What to do; by default what is known about the reason.
        """
        self.total[reason] += 1
        now = self._clock()
        refusal = Refusal(
            reason=reason,
            advice=one_line(advice or ADVICE.get(reason, ""), _LONGEST_ADVICE),
            first_at=now,
            last_at=now,
            status=status,
            peer=None if peer is None else _cleaned(str(peer)),
            method=None if method is None else _cleaned(method),
            path=None if path is None else _cleaned(path.partition("?")[0].partition("#")[0], _LONGEST_PATH),
            length=length,
            key_ids=tuple(_cleaned(each) for each, _ in zip(key_ids, range(_MAX_KEY_IDS), strict=False)),
        )
        self._ring.add(refusal)
        if self._limit.allows(reason):
            self._tell(refusal)

    def newest_first(self) -> tuple[Refusal, ...]:
        """Return the last refusals, at most 256, by the time of the last of those alike."""
        return self._ring.newest_first()

    def _tell(self, refusal: Refusal) -> None:
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
    """Return the refusals that several kept as one list, newest first: those alike as one, and no more than one would keep."""
    ring = RefusalRing()
    for each in sorted(refusals, key=lambda each: each.last_at):
        ring.add(each)
    return ring.newest_first()


def _cleaned(text: str, limit: int = _LONGEST_WORD) -> str:
    """Return a stranger's text as a short line of ASCII that can be printed."""
    line = text[: limit + 1]
    return one_line(line if line.isascii() and line.isprintable() else ascii(line)[1:-1], limit)
