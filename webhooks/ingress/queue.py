"""Deliveries from a message queue: the loop that takes its messages to a receiver, and deletes those that are stored.

What happens to a message is decided by the receiver's answer:

| answer | meaning | the message |
|---|---|---|
| 200 | the event is stored, or was before | is deleted |
| 401 | no configured key signed it | is left alone |
| 413 | the body is longer than `max_body` | is left alone |
| 503 | the store failed | is held and tried again, invisible to others; see below |
| any other, or an error | the receiver could not process it | is left alone |

A message that is left alone returns after its visibility timeout, until the queue's redrive policy moves it to the dead-letter
queue. While the store fails, messages are held, so that an outage does not move them there: until they are stored, the ingress
stops, the store has refused one message five times while it kept others, or an hour has passed. At a stop they become visible to
others at once. A message whose deletion was lost returns as a duplicate, and is deleted then.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

from attrs import fields, frozen
from multidict import CIMultiDict

from rewards_core.backoff import delay
from rewards_core.clock import HOUR, loop_time
from rewards_core.log_limit import LogLimit
from rewards_core.text import counted
from rewards_core.validation import check_callable, check_methods, check_number, check_whole
from webhooks.errors import QueueError
from webhooks.ingress.base import Intake
from webhooks.ingress.messages import MAX_CONCURRENCY, MAX_VISIBILITY, MAX_WAIT, BatchFailure, Queue, QueuedMessage
from webhooks.supervise import RestartPolicy, keep_running, wait_at_most

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["BatchFailure", "Queue", "QueueIngress", "QueueStatistics", "QueuedMessage"]

logger = logging.getLogger(__name__)

_ACCEPTED = 200
_NOT_KEPT = 503

_FIRST_PAUSE = 0.5
_MAX_PAUSE = 30.0
_JITTER = 0.2
_MAX_ALONE = 5
"""Attempts of a message that fail although the store keeps others in between: then the message is at fault, not the store."""
_MAX_HOLD = HOUR
"""How long a message is held while the store keeps nothing; without a limit, messages at fault could take all places."""
_RECOVERY_WAIT = 1
"""Seconds that a request waits for a message after one that failed, so that an empty queue soon counts as readable again."""
_DELETE_ATTEMPTS = 3
_RELEASE_SECONDS = 5.0


@frozen(kw_only=True)
class QueueStatistics:
    """Counters of a queue ingress.

    Attributes:
        received: Messages received, including those received before.
        stored: Messages whose event was stored now or before.
        left: Messages left for the queue's redrive policy.
        retried: Attempts that failed in the store and were repeated.
        extended: Extensions of a message's visibility timeout.
        deleted: Messages deleted.
        undeleted: Stored messages whose deletion failed; they return as duplicates.
        released: Messages made visible to others at a stop.
        failures: Calls to the queue that failed.
        held: Messages in progress.
        oldest_age: The age of the oldest message that any consumer received last, in seconds; 0 if all found the queue empty, or
            it does not say.
    """

    received: int
    stored: int
    left: int
    retried: int
    extended: int
    deleted: int
    undeleted: int
    released: int
    failures: int
    held: int
    oldest_age: float


_COUNTERS = [each.name for each in fields(QueueStatistics) if each.name != "oldest_age"]


class QueueIngress:
    """Take messages from a queue to a receiver, and delete those that are stored.

    It starts and closes the receiver. Any number of processes may take messages from one queue.

    Args:
        queue: The queue, which the caller closes.
        receiver: Processes the deliveries.
        concurrency: Batches of up to ten messages in progress, 1 to 64.
        visibility: Seconds in which a message that this process lost is received again, 2 to 43,200. While a message is in
            progress it is extended.
        wait: Seconds that one request waits for a message, 1 to 20.
        clock: Returns Unix time in seconds.
        random: Returns a number from 0 to 1, which lengthens pauses by up to a fifth.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        queue: Queue,
        receiver: Intake,
        *,
        concurrency: int = 4,
        visibility: int = 60,
        wait: int = MAX_WAIT,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._queue = check_methods(queue, "queue", "a queue", Queue)
        self._receiver = check_methods(receiver, "receiver", "Receiver(...)", Intake)
        self._concurrency = check_whole(concurrency, "concurrency", at_least=1, at_most=MAX_CONCURRENCY)
        self._visibility = check_whole(visibility, "visibility", at_least=2, at_most=MAX_VISIBILITY)
        self._wait = check_whole(wait, "wait", at_least=1, at_most=MAX_WAIT)
        self._clock = check_callable(clock, "clock")
        self._random = check_callable(random, "random")
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._oldest_ages = [0.0] * concurrency
        self._trouble: str | None = None
        self._undeletable: str | None = None
        self._starting = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._log_limit = LogLimit(clock=loop_time)

    @property
    def statistics(self) -> QueueStatistics:
        """Counters of the messages."""
        return QueueStatistics(**self._counts, oldest_age=max(self._oldest_ages))

    @property
    def trouble(self) -> str | None:
        """Why the queue could not be read last time, or nothing could be deleted from it; None if it could."""
        return self._trouble or self._undeletable

    async def start(self) -> None:
        """Start the receiver, and begin to take messages; idempotent.

        Raises:
            StoreError: the receiver's handlers could not be registered; nothing was received.
        """
        async with self._starting:
            if self._tasks and not self._stopping.is_set():
                return
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._receiver.start()
            self._stopping.clear()
            self._tasks = [
                asyncio.create_task(
                    keep_running(
                        partial(self._consume, number),
                        name=f"the consumer {number} of queue {self._queue.name}",
                        policy=RestartPolicy(max_crashes=None),
                        died=lambda _: None,
                    ),
                    name=f"queue {self._queue.name}, consumer {number}",
                )
                for number in range(self._concurrency)
            ]

    async def drain(self, seconds: float) -> bool:
        """Receive nothing more, and finish what was received; idempotent.

        What is not stored after `seconds` becomes visible to others at once. A message that the queue was just handing out is
        received again after its visibility timeout.

        Returns:
            Whether everything that was received was finished.
        """
        check_number(seconds, "seconds", at_least=0, unit="seconds")
        self._stopping.set()
        before = self._counts["released"]
        tasks = self._tasks
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._tasks is tasks:
                self._tasks = []
        return self._counts["released"] == before

    async def aclose(self, drain: float = 10.0) -> None:
        """Drain for at most `drain` seconds, then close the receiver by `aclose()`, which cancels its handlers; idempotent."""
        try:
            await self.drain(check_number(drain, "drain", at_least=0, unit="seconds"))
        finally:
            await self._receiver.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def _consume(self, number: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                messages = await self._receive(_RECOVERY_WAIT if self._trouble else self._wait)
            except QueueError as problem:
                self._trouble = str(problem)
                self._note_failure("receive", "could not be read, and is tried again", problem)
                await wait_at_most(self._stopping, self._pause(failures))
                failures += 1
                continue
            except Exception as problem:
                self._trouble = f"Queue {self._queue.name} could not be read ({type(problem).__name__}), and is tried again."
                raise
            failures, self._trouble = 0, None
            sent = [message.sent_at for message in messages if message.sent_at is not None]
            self._oldest_ages[number] = max(0.0, self._clock() - min(sent)) if sent else 0.0
            if messages:
                await self._process(messages)

    async def _receive(self, wait: int) -> Sequence[QueuedMessage]:
        """Return the next messages; none if the ingress is stopped meanwhile."""
        receiving = asyncio.ensure_future(self._queue.receive(wait=wait, visibility=self._visibility))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((receiving, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            receiving.cancel()  # no effect on one that has its messages
            await asyncio.gather(receiving, stopping, return_exceptions=True)
        return () if receiving.cancelled() else receiving.result()

    async def _process(self, messages: Sequence[QueuedMessage]) -> None:
        """Store and delete the messages of one batch."""
        held = {message.handle: message for message in messages}
        self._counts["received"] += len(messages)
        self._counts["held"] += len(messages)
        try:
            async with asyncio.TaskGroup() as group:
                extending = group.create_task(self._extend(held))
                await self._store(held)
                extending.cancel()
        finally:
            self._counts["held"] -= len(messages)
            if held and self._stopping.is_set():
                await self._release(list(held.values()))

    async def _store(self, held: dict[str, QueuedMessage]) -> None:
        """Take messages out of `held` as they are stored or left alone; at a stop those that the store refused remain."""
        started, attempts, alone, before = loop_time(), 0, 0, None
        while held:
            messages = list(held.values())
            answers = await asyncio.gather(*(self._offer(message) for message in messages))
            stored, left = [], []
            for message, status in zip(messages, answers, strict=True):
                if status == _ACCEPTED:
                    stored.append(held.pop(message.handle))
                elif status != _NOT_KEPT:
                    left.append((held.pop(message.handle), f"its delivery was answered {status}"))
            self._counts["stored"] += len(stored)
            attempts += 1
            alone += before is not None and self._counts["stored"] > before
            before = self._counts["stored"]
            if held and (alone >= _MAX_ALONE or loop_time() - started >= _MAX_HOLD):
                left += [(message, f"the store refused it {counted(attempts, 'time')}") for message in held.values()]
                held.clear()
            self._leave(left)
            if stored:
                await self._delete(stored)
            if held and self._stopping.is_set():
                return
            if held:
                self._counts["retried"] += len(held)
                await wait_at_most(self._stopping, self._pause(attempts - 1))

    async def _offer(self, message: QueuedMessage) -> int:
        """Return the receiver's answer to a message; 500 if it raised an error."""
        body = message.body.encode("utf-8", "surrogatepass")
        try:
            reply = await self._receiver.receive(CIMultiDict(message.attributes), body, f"queue {self._queue.name}")
        except Exception:
            if self._log_limit.allows("error"):
                logger.exception("a message of queue %s could not be processed", self._queue.name)
            return 500
        return reply.status

    def _leave(self, messages: Sequence[tuple[QueuedMessage, str]]) -> None:
        self._counts["left"] += len(messages)
        for message, why in messages:
            if self._log_limit.allows("left"):
                logger.warning(
                    "message %s was left in queue %s: %s. It was received %s, and the queue's redrive policy moves it to the "
                    "dead-letter queue; %d left so far",
                    message.id,
                    self._queue.name,
                    why,
                    counted(message.receives, "time"),
                    self._counts["left"],
                )

    async def _delete(self, stored: Sequence[QueuedMessage]) -> None:
        gone = 0
        refusal: QueueError | None = None
        for attempt in range(_DELETE_ATTEMPTS):
            if attempt:
                await wait_at_most(self._stopping, self._pause(attempt - 1))
            try:
                failures = await self._queue.delete(stored)
            except QueueError as problem:
                self._note_failure("delete", "deletes nothing", problem)
                refusal = problem
                continue
            refusal = None
            self._counts["deleted"] += len(stored) - len(failures)
            gone += sum(not failure.retryable for failure in failures)
            stored = [failure.message for failure in failures if failure.retryable]
            if not stored:
                break
        self._undeletable = None if refusal is None else f"What was stored cannot be deleted, and returns. {refusal}"
        undeleted = gone + len(stored)
        self._counts["undeleted"] += undeleted
        if undeleted and self._log_limit.allows("undeleted"):
            logger.warning(
                "%s of queue %s could not be deleted after storing; each returns as a duplicate, and is deleted then",
                counted(undeleted, "message"),
                self._queue.name,
            )

    async def _extend(self, held: Mapping[str, QueuedMessage]) -> None:
        """Keep messages invisible to others for as long as they are held."""
        expired: set[str] = set()
        pause = self._visibility / 2
        while True:
            await asyncio.sleep(pause)
            messages = [message for handle, message in held.items() if handle not in expired]
            if not messages:
                continue
            try:
                failures = await self._queue.change_visibility(messages, self._visibility)
            except QueueError as problem:
                self._note_failure("extend", "does not extend the visibility timeout of messages in progress", problem)
                pause = self._visibility / 8
                continue
            self._counts["extended"] += len(messages) - len(failures)
            expired.update(failure.message.handle for failure in failures if not failure.retryable)
            pause = self._visibility / (8 if any(failure.retryable for failure in failures) else 2)

    async def _release(self, messages: Sequence[QueuedMessage]) -> None:
        """Make messages visible to others now."""
        self._counts["released"] += len(messages)
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._queue.change_visibility(messages, 0)
        except (QueueError, TimeoutError) as problem:
            logger.warning(
                "%s of queue %s could not be made visible at once, and are received again after their visibility timeout: %s",
                counted(len(messages), "message"),
                self._queue.name,
                str(problem) or "it did not answer in time",
            )
        else:
            logger.info("%s of queue %s were not stored before the stop", counted(len(messages), "message"), self._queue.name)

    def _note_failure(self, about: str, what: str, problem: QueueError) -> None:
        self._counts["failures"] += 1
        if self._log_limit.allows(about):
            logger.warning("queue %s %s: %s", self._queue.name, what, problem)

    def _pause(self, repeats: int) -> float:
        return delay(repeats, first=_FIRST_PAUSE, longest=_MAX_PAUSE, jitter=_JITTER, chance=self._random())
