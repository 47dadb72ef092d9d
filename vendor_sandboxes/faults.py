"""Which request, operation and delivery a fault hits: equal for equal seeds, and every fault counted."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from vendor_sandboxes.options import SandboxOptions, Span

T = TypeVar("T")

BEFORE_COMMIT = ("p429", "p503", "drop_before_commit")
UNANSWERED_COMMIT = ("p503_after_commit", "drop_after_commit")
AFTER_COMMIT = (*UNANSWERED_COMMIT, "slow_after_commit")
NO_FAULT = "none"


class _Step(NamedTuple):
    fault: str
    method: str
    path: str


class FaultPlan:
    """Decide which requests and events suffer a fault. Each fault has its own random stream: enabling one does not affect others.

    Args:
        options: The probabilities, read for every decision.
        seed: With equal seeds, equal sequences of calls give equal decisions.

    Attributes:
        steps: The scripted faults that are still to come.
        counts: The number of hits of each fault.
    """

    def __init__(self, options: SandboxOptions, seed: int | str) -> None:
        self._options = options
        self._seed = seed
        self._streams: dict[str, Random] = {}
        self.steps: deque[_Step] = deque()
        self.counts: Counter[str] = Counter()

    def stream(self, name: str) -> Random:
        """Return the random stream of a fault or option."""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Random(f"{self._seed}/{name}")
        return stream

    def happens(self, name: str) -> bool:
        """Return whether the named fault happens this time, and count it if so."""
        probability: float = getattr(self._options, name)
        if not probability or self.stream(name).random() >= probability:
            return False
        self.counts[name] += 1
        return True

    def between(self, name: str, span: Span) -> float:
        """Return a random number of seconds of the range."""
        low, high = span
        return low if low == high else self.stream(name).uniform(low, high)

    def pick(self, name: str, words: Sequence[T]) -> T:
        """Return one of the words at random."""
        return words[0] if len(words) == 1 else self.stream(name).choice(words)

    def script(self, *faults: str, method: str = "POST", path: str = "") -> None:
        """Set the faults of the next requests; see `Sandbox.script`."""
        known = (*BEFORE_COMMIT, *AFTER_COMMIT, NO_FAULT)
        for fault in faults:
            if fault not in known:
                raise ValueError(f"{fault!r} cannot hit a request: choose among {', '.join(known)}")
            self.steps.append(_Step(fault, method, path))

    def for_request(self, method: str, path: str) -> str:
        """Return the name of the fault that hits this request, or `"none"`."""
        if self.steps:
            step = self.steps[0]
            if step.method == method and step.path in path:
                self.steps.popleft()
                if step.fault != NO_FAULT:
                    self.counts[step.fault] += 1
                return step.fault
        if self._options.only_path in path:
            for name in BEFORE_COMMIT if method == "GET" else (*BEFORE_COMMIT, *AFTER_COMMIT):
                if self.happens(name):
                    return name
        return NO_FAULT
