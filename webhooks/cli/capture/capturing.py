"""Capture what arrives: analyse each request, write it down, tell of it, and know when it is enough."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from multidict import CIMultiDict

from original_async.signature_readings import SignatureReader
from rewards_core.cli.output import Output, for_whoever_reads
from rewards_core.text import counted
from webhooks.cli.capture.arrivals import Arrival, watched
from webhooks.cli.capture.attempts import Attempt, Attempts
from webhooks.cli.capture.files import CaptureFiles
from webhooks.cli.capture.redaction import in_texts
from webhooks.cli.capture.report import Capture, lines_of, report_of, verified
from webhooks.cli.sources import ReloadableSource
from webhooks.ingress.armour import ArmouredServer
from webhooks.ingress.base import Intake, Reply
from webhooks.readings import Readings

logger = logging.getLogger("webhooks.listener")

SEND_AGAIN = Reply(
    status=503,
    headers={"Content-Type": "text/plain; charset=utf-8", "Retry-After": "5"},
    body=b"The delivery is kept, and its next attempt is wanted for comparison. Send it again.\n",
)
MOST_STRANGERS = 100
"""Requests that no configured key signed, of which this many are written down and told of: strangers must not fill the disk."""
_ANALYSES = 2
_REPLAY = (
    " A handler or a --forward-to that is new to the store does not get these events by itself: run "
    "`webhook-listener events replay ID...` once it is there; `events list` shows their ids."
)


@frozen(kw_only=True)
class CaptureOptions:
    """What is captured.

    Attributes:
        refuse_first: Whether the first attempt of each event is kept and refused, so that it is sent again.
        wanted: How many deliveries are enough, 0 for any number; with `refuse_first` those that came again.
    """

    refuse_first: bool
    wanted: int


class Capturing:
    """Capture what arrives.

    Args:
        source: Whose deliveries are expected.
        reader: Says how signatures read.
        files: Where they are written down.
        output: Where they are told of.
        options: What is captured.
        enough: Hears when there is enough.

    Attributes:
        captured: How many deliveries of the vendor were captured.
        complete: How many of them count: with `refuse_first` those that came again.
        kept: How many deliveries are in the store, repeated ones included.
        misread: How many of those a configured key signed in a way that is not accepted.
        unwritten: How many of them could not be written down.
        strangers: How many other requests came.
    """

    def __init__(
        self,
        source: ReloadableSource,
        reader: SignatureReader,
        files: CaptureFiles,
        output: Output,
        options: CaptureOptions,
        enough: Callable[[], None],
    ) -> None:
        self.captured = self.complete = self.kept = self.misread = self.unwritten = self.strangers = 0
        self._source = source
        self._reader = reader
        self._files = files
        self._output = output
        self._options = options
        self._enough = enough
        self._attempts = Attempts()
        self._number = files.last_number
        self._readings = Readings()
        self._analyses = asyncio.Semaphore(_ANALYSES)

    def server(self, receivers: Mapping[str, Intake], **options: Any) -> ArmouredServer:
        """Return a server whose requests are captured; it takes what `ArmouredServer` takes."""
        return watched(receivers, self._answer, self._seen, **options)

    @property
    def has_enough(self) -> bool:
        """Whether as many deliveries came as are wanted."""
        return 0 < self._options.wanted <= self.complete

    async def _answer(self, arrival: Arrival, reply: Reply) -> Reply:
        """Return the answer to a delivery; where the first attempts are refused, this one is kept all the same."""
        headers = CIMultiDict(arrival.headers)
        event = await self._readings.read(self._source, arrival.body or b"", headers, remember=False)
        arrival.attempt = Attempt(number=self._next_number(), event=event, headers=arrival.headers)
        arrival.earlier = self._attempts.before(arrival.attempt)
        arrival.asked_again = self._options.refuse_first and reply.status == 200 and arrival.earlier is None
        return SEND_AGAIN if arrival.asked_again else reply

    async def _seen(self, arrival: Arrival) -> None:
        """Write a request down and tell of it, before its answer leaves."""
        async with self._analyses:
            try:
                await self._capture(arrival)
            except Exception:  # whatever a request does to its analysis, its answer leaves
                logger.exception("a request was answered, but its capture failed")

    async def _capture(self, arrival: Arrival) -> None:
        capture = await asyncio.to_thread(self._analyse, arrival)
        if not capture.ours:
            self.strangers += 1
            if self.strangers > MOST_STRANGERS:
                return
        try:
            await self._tell(capture)
        finally:
            if capture.ours:
                self._count(capture)

    async def _tell(self, capture: Capture) -> None:
        arrival, clean = capture.arrival, self._reader.without_secrets
        report = await asyncio.to_thread(lambda: in_texts(report_of(capture, self._source.event_names), clean))
        file, sample = await self._write(capture, report)
        with for_whoever_reads():
            if self._output.as_json:
                where = {"file": file, "sample": sample, "target": clean(arrival.target), "peer": arrival.peer}
                self._output.record({**report, **where})
            else:
                self._output.lines(clean("\n".join(lines_of(capture, report, file))))
        if self.strangers == MOST_STRANGERS and not capture.ours:
            self._output.note(
                f"Further requests that no configured key signed are counted only: {MOST_STRANGERS} are written down."
            )

    def _analyse(self, arrival: Arrival) -> Capture:
        accepted, problem, readings = None, None, []
        if arrival.body is not None:
            accepted, problem = verified(self._source, CIMultiDict(arrival.headers), arrival.body)
            readings = self._reader.read(arrival.headers, arrival.body)
        number = self._next_number() if arrival.attempt is None else arrival.attempt.number
        return Capture(
            number=number, path=self._source.spec.path, arrival=arrival, accepted=accepted, problem=problem, readings=readings
        )

    async def _write(self, capture: Capture, report: Mapping[str, Any]) -> tuple[str | None, str | None]:
        try:
            file, sample = await asyncio.to_thread(self._files.write, capture, report)
        except OSError as problem:
            logger.error("a delivery could not be written down: %s", problem)  # noqa: TRY400 - one line says it
            self.unwritten += capture.ours
            return None, None
        return str(file), None if sample is None else str(sample)

    def _count(self, capture: Capture) -> None:
        self.captured += 1
        self.kept += capture.kept
        self.misread += capture.misread
        self.complete += not self._options.refuse_first or capture.arrival.earlier is not None
        if self.has_enough:
            self._enough()

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def summary(self) -> str:
        """Return what came, in a sentence or two."""
        others = f" {counted(self.strangers, 'other request')} came." if self.strangers else ""
        if not self.captured:
            return f"No delivery that a configured key signed came.{others}"
        written = f"{counted(self.captured - self.unwritten, 'delivery', 'deliveries')} written to {self._files.folder}."
        lost = f" {self.unwritten} could not be written there; what was answered 200 is in the store." if self.unwritten else ""
        shown = " What ends in .sample.json may be shown to others; the rest is private."
        return f"{written}{lost}{others}{shown}{_REPLAY if self.kept else ''}"
