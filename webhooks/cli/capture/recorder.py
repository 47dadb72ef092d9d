"""Record what arrives: analyze each request, write its files, report it, and count until there are enough."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from attrs import define, field
from multidict import CIMultiDict

from original_async.signature_readings import SignatureReader
from rewards_core.cli.output import Output, ignore_broken_pipe
from rewards_core.errors import SignatureError
from rewards_core.operations import Event
from rewards_core.text import counted
from webhooks.cli.capture.files import CaptureFiles, map_texts
from webhooks.cli.capture.report import report_lines, report_of
from webhooks.cli.capture.requests import Attempt, CapturedRequest, recording_server
from webhooks.cli.sources import ReloadableSource
from webhooks.ingress.base import Intake, Reply
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.parsing import BodyParser

logger = logging.getLogger("webhooks.listener")

MAX_UNSIGNED = 100
"""Requests without a valid signature that are written and reported; more are only counted, so that they cannot fill the disk."""
_SEND_AGAIN = Reply(
    status=503,
    headers={"Content-Type": "text/plain; charset=utf-8", "Retry-After": "5"},
    body=b"The delivery is stored. Send it again, so that its attempts can be compared.\n",
)
_MAX_REMEMBERED = 256
_ANALYSES = 2
_REPLAY = (
    " A handler or --forward-to that you add later does not get these events automatically: run "
    "`webhook-listener events replay ID...` once it is there. `events list` shows their ids."
)


@define(kw_only=True, eq=False)
class Recorder:
    """Record what arrives.

    Attributes:
        source: The source of the expected deliveries.
        reader: Reads signatures.
        files: Where requests are written.
        output: Where requests are reported.
        refuse_first: Whether the first attempt of each event is stored and answered 503, so that it is sent again.
        count: How many deliveries are enough, 0 for any number; with `refuse_first` only repeated ones count.
        on_enough: Called when there are enough.
        captured: How many deliveries with a valid signature arrived.
        complete: How many of them count.
        stored: How many deliveries are in the store, repeated ones included.
        misread: How many deliveries a configured key signed in a way that is not accepted.
        unwritten: How many deliveries could not be written to files.
        others: How many other requests arrived.
    """

    source: ReloadableSource
    reader: SignatureReader
    files: CaptureFiles
    output: Output
    refuse_first: bool
    count: int
    on_enough: Callable[[], None]
    captured: int = field(default=0, init=False)
    complete: int = field(default=0, init=False)
    stored: int = field(default=0, init=False)
    misread: int = field(default=0, init=False)
    unwritten: int = field(default=0, init=False)
    others: int = field(default=0, init=False)
    _numbers: Iterator[int] = field(init=False)
    _attempts: OrderedDict[tuple[object, ...], Attempt] = field(factory=OrderedDict, init=False)
    _parser: BodyParser = field(factory=BodyParser, init=False)
    _analyses: asyncio.Semaphore = field(factory=partial(asyncio.Semaphore, _ANALYSES), init=False)

    def __attrs_post_init__(self) -> None:
        self._numbers = itertools.count(self.files.last_number + 1)

    def server(self, receivers: Mapping[str, Intake], **options: Any) -> HardenedServer:
        """Return a server whose requests are recorded; the arguments are those of `HardenedServer`."""
        return recording_server(receivers, self._answer, self._record, **options)

    @property
    def has_enough(self) -> bool:
        """Whether enough deliveries arrived."""
        return 0 < self.count <= self.complete

    def summary(self) -> str:
        """Return a summary for people."""
        others = f" {counted(self.others, 'other request')} arrived." if self.others else ""
        if not self.captured:
            return f"No delivery signed with a configured key arrived.{others}"
        written = f"{counted(self.captured - self.unwritten, 'delivery', 'deliveries')} written to {self.files.folder}."
        lost = f" {self.unwritten} could not be written; those answered 200 are in the store." if self.unwritten else ""
        shareable = " Files that end in .sample.json are safe to share; the others are private."
        return f"{written}{lost}{others}{shareable}{_REPLAY if self.stored else ''}"

    async def _answer(self, request: CapturedRequest, reply: Reply) -> Reply:
        headers = CIMultiDict(request.headers)
        event = await self._parser.parse(self.source, request.body or b"", headers, remember=False)
        request.number = next(self._numbers)
        request.attempt = Attempt(number=request.number, event=event, headers=request.headers)
        request.earlier = self._remember(request.attempt)
        request.asked_again = self.refuse_first and reply.status == 200 and request.earlier is None
        return _SEND_AGAIN if request.asked_again else reply

    def _remember(self, attempt: Attempt) -> Attempt | None:
        """Remember an attempt, and return the previous attempt of the same delivery."""
        names = list(_names(attempt.event))
        known = [self._attempts[name] for name in names if name in self._attempts]
        for name in names:
            self._attempts[name] = attempt
            self._attempts.move_to_end(name)
        while len(self._attempts) > _MAX_REMEMBERED:
            self._attempts.popitem(last=False)
        return max(known, key=lambda one: one.number, default=None)

    async def _record(self, request: CapturedRequest) -> None:
        """Analyze, write and report a request before its answer leaves."""
        async with self._analyses:
            request.number = request.number or next(self._numbers)
            try:
                await asyncio.to_thread(self._analyze, request)
                if request.ours:
                    await self._report(request)
                else:
                    self.others += 1
                    if self.others <= MAX_UNSIGNED:
                        await self._report(request)
            except Exception:  # its answer must leave, whatever it does to the analysis
                logger.exception("a request was answered, but could not be captured")
            finally:
                if request.ours:
                    self._add(request)

    def _analyze(self, request: CapturedRequest) -> None:
        if request.body is None:
            return
        try:
            request.accepted = self.source.verify(CIMultiDict(request.headers), request.body)
        except SignatureError as error:
            request.problem = error
        request.readings = self.reader.read(request.headers, request.body)

    async def _report(self, request: CapturedRequest) -> None:
        clean, path = self.reader.without_secrets, self.source.spec.path
        report = await asyncio.to_thread(lambda: map_texts(report_of(request, path, self.source.event_names), clean))
        file, sample = await self._write(request, report)
        with ignore_broken_pipe():
            if self.output.as_json:
                where = {"file": file, "sample": sample, "target": clean(request.target), "peer": request.peer}
                self.output.record({**report, **where})
            else:
                self.output.lines(clean("\n".join(report_lines(request, path, report, file))))
        if self.others == MAX_UNSIGNED and not request.ours:
            self.output.note(f"{MAX_UNSIGNED} requests without a valid signature were written. More of them are only counted.")

    async def _write(self, request: CapturedRequest, report: Mapping[str, Any]) -> tuple[str | None, str | None]:
        try:
            file, sample = await asyncio.to_thread(self.files.write, request, report)
        except OSError as error:
            logger.error("a delivery could not be written to a file: %s", error)  # noqa: TRY400 - one line says it
            self.unwritten += request.ours
            return None, None
        return str(file), None if sample is None else str(sample)

    def _add(self, request: CapturedRequest) -> None:
        self.captured += 1
        self.stored += request.stored
        self.misread += request.misread
        self.complete += not self.refuse_first or request.earlier is not None
        if self.has_enough:
            self.on_enough()


def _names(event: Event) -> Iterator[tuple[object, ...]]:
    """Yield what attempts of one delivery have in common: its identity, its correlation id, or its operation and time."""
    yield "identity", event.identity
    if event.correlation_id:
        yield "correlation", event.correlation_id
    if event.ref is not None:
        yield "operation", event.name, event.ref, event.occurred_at
