"""What goes wrong in a sandbox and how often: switchable while it runs, equal for equal seeds, every fault counted."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, TypeVar

from attrs import define, field, fields, frozen
from attrs.validators import ge, le

T = TypeVar("T")

BEFORE_COMMIT = ("p429", "p503", "drop_before_commit")
UNANSWERED_COMMIT = ("p503_after_commit", "drop_after_commit")
AFTER_COMMIT = (*UNANSWERED_COMMIT, "slow_after_commit")
UNHARMED = "none"

Span = tuple[float, float]


def chance(help_text: str) -> Any:
    """Return a switch that is a probability from 0 to 1."""
    return field(default=0.0, converter=float, validator=[ge(0.0), le(1.0)], metadata={"kind": "chance", "help": help_text})


def seconds(default: float, help_text: str) -> Any:
    """Return a switch that is a number of seconds, 0 or more."""
    return field(default=default, converter=float, validator=ge(0.0), metadata={"kind": "seconds", "help": help_text})


def read_span(value: Any) -> Span | None:
    """Return the lowest and highest number of seconds of `(0.5, 3)`, `"0.5:3"`, `2`, or None for `None` and `"never"`."""
    if value is None or value == "never":
        return None
    if isinstance(value, str):
        low_text, _, high_text = value.partition(":")
        low, high = float(low_text), float(high_text or low_text)
    elif isinstance(value, int | float):
        low = high = float(value)
    else:
        low, high = (float(end) for end in value)
    if not 0 <= low <= high:
        raise ValueError(f"{value!r} is no range of seconds: give LOW:HIGH with 0 <= LOW <= HIGH, or never")
    return low, high


def span(default: Span | None, help_text: str) -> Any:
    """Return a switch that is a range of seconds, or None for never."""
    return field(default=default, converter=read_span, metadata={"kind": "span", "help": help_text})


def choice(default: str, words: Sequence[str], help_text: str) -> Any:
    """Return a switch that is one of a few words."""

    def check(_: Any, attribute: Any, value: Any) -> None:
        if value not in words:
            raise ValueError(f"{attribute.name} cannot be {value!r}: choose one of {', '.join(words)}")

    return field(default=default, validator=check, metadata={"kind": "choice", "words": tuple(words), "help": help_text})


def text(default: str, help_text: str) -> Any:
    """Return a switch that is a piece of text."""
    return field(default=default, converter=str, metadata={"kind": "text", "help": help_text})


def number(default: int, lowest: int, highest: int | None, help_text: str) -> Any:
    """Return a switch that is a whole number of a range, without an upper end if `highest` is None."""
    numbers = f"a whole number, {lowest} or more" if highest is None else f"a whole number from {lowest} to {highest}"

    def check(_: Any, attribute: Any, value: Any) -> None:
        if type(value) is not int or value < lowest or (highest is not None and value > highest):
            raise ValueError(f"{attribute.name} cannot be {value!r}: give {numbers}")

    return field(default=default, validator=check, metadata={"kind": "number", "help": help_text})


def flag(help_text: str) -> Any:
    """Return a switch that is on or off."""
    return field(default=False, converter=bool, metadata={"kind": "flag", "help": help_text})


def mixture(default: str, words: Sequence[str], help_text: str) -> Any:
    """Return a switch that is one of a few words, or several of them joined by commas and taken at random."""

    def read(value: str | Iterable[str]) -> tuple[str, ...]:
        return tuple(value.split(",") if isinstance(value, str) else value)

    def check(_: Any, attribute: Any, value: Any) -> None:
        if not value or not set(value) <= set(words):
            raise ValueError(f"{attribute.name} cannot be {','.join(value)!r}: choose among {', '.join(words)}")

    return field(
        default=default, converter=read, validator=check, metadata={"kind": "mixture", "words": tuple(words), "help": help_text}
    )


@define(kw_only=True)
class Faults:
    """The switches both sandboxes have; each may be set while the sandbox runs."""

    p503: float = chance("answer 503 and do nothing")
    p503_after_commit: float = chance("carry out a write but answer 503")
    p429: float = chance("answer 429 with Retry-After and do nothing")
    retry_after: float = seconds(1.0, "Retry-After of a 429")
    drop_before_commit: float = chance("close the connection without an answer and do nothing")
    drop_after_commit: float = chance("carry out a write but close the connection without an answer")
    slow_after_commit: float = chance("carry out a write but answer late")
    slow_seconds: float = seconds(10.0, "how late a slow answer comes")
    latency: tuple[float, float] | None = span(None, "range of the seconds by which every answer is delayed")
    only_path: str = text("", "faults hit only requests whose path contains this")


def switches_of(cls: type[Faults]) -> Iterable[Any]:
    """Return the attributes of a class of switches which a command line should offer."""
    return (attribute for attribute in fields(cls) if "kind" in attribute.metadata)


@frozen
class _Scripted:
    fault: str
    method: str
    path: str


class FaultPlan:
    """Decide which request, operation and delivery is hit.

    Every fault has a random stream of its own, so switching one on does not move the others.

    Args:
        switches: Where the probabilities are read, anew for every decision.
        seed: Equal seeds decide equally for equal sequences of questions.
    """

    def __init__(self, switches: Faults, seed: int | str) -> None:
        self._switches = switches
        self._seed = seed
        self._streams: dict[str, Random] = {}
        self._scripted: deque[_Scripted] = deque()
        self.counts: Counter[str] = Counter()

    def stream(self, name: str) -> Random:
        """Return the random stream of that name."""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Random(f"{self._seed}/{name}")
        return stream

    def happens(self, name: str) -> bool:
        """Return whether the fault of that switch hits this time, and count it if it does."""
        probability: float = getattr(self._switches, name)
        if not probability or self.stream(name).random() >= probability:
            return False
        self.counts[name] += 1
        return True

    def between(self, name: str, low_high: Span) -> float:
        """Return a random number of seconds of the range."""
        low, high = low_high
        return low if low == high else self.stream(name).uniform(low, high)

    def pick(self, name: str, words: Sequence[T]) -> T:
        """Return one of the words at random."""
        return words[0] if len(words) == 1 else self.stream(name).choice(words)

    def script(self, *faults: str, method: str = "POST", path: str = "") -> None:
        """Say what happens to the next requests, one fault each, before chance has a say again.

        Args:
            faults: Names of switches such as `"drop_after_commit"`, or `"none"` for a request that goes through unharmed.
            method: Only requests of this method take the next step.
            path: Only requests whose path contains this take the next step.

        Raises:
            ValueError: a fault of that name cannot hit a request.
        """
        known = (*BEFORE_COMMIT, *AFTER_COMMIT, UNHARMED)
        for fault in faults:
            if fault not in known:
                raise ValueError(f"{fault!r} cannot hit a request: choose among {', '.join(known)}")
            self._scripted.append(_Scripted(fault, method, path))

    def for_request(self, method: str, path: str) -> str:
        """Return the name of the fault that hits this request, `"none"` if none does."""
        if self._scripted:
            step = self._scripted[0]
            if step.method == method and step.path in path:
                self._scripted.popleft()
                if step.fault != UNHARMED:
                    self.counts[step.fault] += 1
                return step.fault
        if self._switches.only_path in path:
            for name in BEFORE_COMMIT if method == "GET" else (*BEFORE_COMMIT, *AFTER_COMMIT):
                if self.happens(name):
                    return name
        return UNHARMED
