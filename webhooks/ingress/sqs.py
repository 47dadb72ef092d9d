"""Deliveries from a queue of Amazon SQS, by aiobotocore. Needs the extra `sqs`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from rewards_core.clock import DAY, HOUR
from rewards_core.errors import ConfigurationError
from rewards_core.install_hint import install_hint
from rewards_core.secrets import shielded
from rewards_core.text import counted, one_line
from webhooks.errors import QueueError
from webhooks.ingress.messages import MAX_BATCH, MAX_CONCURRENCY, MAX_WAIT, BatchFailure, QueuedMessage
from webhooks.ingress.queue import QueueIngress
from webhooks.ingress.queue_url import parse_queue_url

if TYPE_CHECKING:
    from webhooks.ingress.base import Intake

try:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
except ModuleNotFoundError:
    raise ImportError(f"SQS needs the package aiobotocore. Run {install_hint('sqs')}.") from None

logger = logging.getLogger(__name__)

_MISSING = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
_DENIED = frozenset({"AccessDenied", "AccessDeniedException"})
_BAD_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_AT_START = frozenset({"get_queue_url", "get_queue_attributes"})
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_MIN_RECEIVES = 3


@frozen(kw_only=True)
class QueueSettings:
    """What a queue is set to, and how full it is about now.

    Attributes:
        max_receives: Receipts after which the redrive policy moves a message to the dead-letter queue; None without a policy.
        retention: Seconds after which the queue drops a message.
        waiting: Messages that wait.
        in_flight: Messages that a consumer holds.
        advice: What is unsafe in these settings, a sentence each.
    """

    max_receives: int | None
    retention: float
    waiting: int
    in_flight: int
    advice: Sequence[str] = field(init=False)

    @advice.default
    def _find_advice(self) -> Sequence[str]:
        found = []
        if self.max_receives is None:
            found.append(
                "The queue has no redrive policy, so unsigned messages return until the queue drops them. Give it a dead-letter "
                "queue."
            )
        elif self.max_receives < _MIN_RECEIVES:
            found.append(
                f"A message goes to the dead-letter queue after {counted(self.max_receives, 'receipt')}, and restarts of "
                "consumers count too. Set maxReceiveCount to 5 or more."
            )
        if self.retention < DAY:
            found.append(
                f"The queue drops messages after {self.retention / HOUR:.3g} hours, also those that no consumer could store. "
                "Raise its retention period."
            )
        return found


class SqsQueue:
    """A queue of Amazon SQS; open it before use. Credentials come from the AWS SDK's own chain.

    Args:
        url: `sqs://NAME?region=REGION`, or the queue's URL.
        region: The region, where the URL does not say it; None for the one that the AWS SDK is configured with.
        endpoint: URL of a private endpoint.
        allow_insecure: Whether plain http may be used outside loopback.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the URL names no queue, holds credentials, or would be reached by plain http outside loopback.
    """

    @shielded
    def __init__(
        self,
        url: str,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        allow_insecure: bool = False,
    ) -> None:
        self._address = parse_queue_url(url, region=region, endpoint=endpoint, allow_insecure=allow_insecure)
        self._url = self._address.url
        self._stack = AsyncExitStack()
        self._client: Any = None

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._address.name

    async def open(self) -> None:
        """Find the queue; idempotent. After an error, close it.

        Raises:
            ConfigurationError: there are no credentials, or no region.
            QueueError: the queue does not exist, cannot be reached, or may not be used.
        """
        if self._client is not None:
            return
        context = get_session().create_client(
            "sqs",
            region_name=self._address.region,
            endpoint_url=self._address.endpoint,
            config=AioConfig(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=MAX_WAIT + _ANSWER_SECONDS,
                max_pool_connections=2 * MAX_CONCURRENCY,
                retries={"total_max_attempts": 1},
            ),
        )
        try:  # in a thread, because the SDK reads files
            self._client = await asyncio.to_thread(asyncio.run, context.__aenter__())
        except BotoCoreError as problem:
            error = self._configuration_error(problem)
        else:
            self._stack.push_async_exit(context)
            if self._url is None:
                answer = await self._call("get_queue_url", QueueName=self.name)
                self._url = str(answer.get("QueueUrl"))
            return
        raise error

    async def aclose(self) -> None:
        """Close the connections; idempotent."""
        self._client = None
        await self._stack.aclose()

    async def settings(self) -> QueueSettings:
        """Ask what the queue is set to; raises `QueueError`."""
        answer = await self._call("get_queue_attributes", QueueUrl=self._url, AttributeNames=["All"])
        found = answer.get("Attributes", {})
        policy = found.get("RedrivePolicy")
        return QueueSettings(
            max_receives=None if not policy else int(json.loads(policy)["maxReceiveCount"]),
            retention=float(found.get("MessageRetentionPeriod", 4 * DAY)),
            waiting=int(found.get("ApproximateNumberOfMessages", 0)),
            in_flight=int(found.get("ApproximateNumberOfMessagesNotVisible", 0)),
        )

    async def receive(self, *, wait: int, visibility: int) -> Sequence[QueuedMessage]:
        """Return up to ten messages, after waiting for the first; for `visibility` seconds nobody else receives them."""
        answer = await self._call(
            "receive_message",
            QueueUrl=self._url,
            MaxNumberOfMessages=MAX_BATCH,
            WaitTimeSeconds=wait,
            VisibilityTimeout=visibility,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        return [_message(each) for each in answer.get("Messages", ())]

    async def delete(self, messages: Sequence[QueuedMessage]) -> Sequence[BatchFailure]:
        """Delete up to ten messages, and return those that were not deleted."""
        return await self._change("delete_message_batch", messages)

    async def change_visibility(self, messages: Sequence[QueuedMessage], seconds: int) -> Sequence[BatchFailure]:
        """Make up to ten messages visible to others after `seconds`; return those that were not changed."""
        return await self._change("change_message_visibility_batch", messages, VisibilityTimeout=seconds)

    async def _change(self, operation: str, messages: Sequence[QueuedMessage], **change: Any) -> Sequence[BatchFailure]:
        entries = [{"Id": str(number), "ReceiptHandle": each.handle, **change} for number, each in enumerate(messages)]
        answer = await self._call(operation, QueueUrl=self._url, Entries=entries)
        changed = {each["Id"] for each in answer.get("Successful", ())}
        failed = {each["Id"]: each for each in answer.get("Failed", ())}
        return [
            BatchFailure(
                message=message,
                code=failed.get(str(number), {}).get("Code", "Unanswered"),
                retryable=not failed.get(str(number), {}).get("SenderFault", False),
            )
            for number, message in enumerate(messages)
            if str(number) not in changed
        ]

    async def _call(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """Call SQS once; no error of the SDK, whose frames hold credentials, stays attached to a `QueueError`."""
        if self._client is None:
            raise QueueError(f"Queue {self.name} is closed. Open it before use.")
        call: Callable[..., Awaitable[Mapping[str, Any]]] = getattr(self._client, operation)
        error: QueueError | ConfigurationError
        try:
            return await call(**arguments)
        except NoCredentialsError as problem:
            error = self._configuration_error(problem)
            if operation not in _AT_START:
                error = QueueError(f"AWS credentials are gone from queue {self.name}. Restore them; messages stay in the queue.")
        except Exception as problem:  # noqa: BLE001 - the SDK raises anything where the answer is not that of SQS
            error = self._queue_error(problem)
        raise error

    def _configuration_error(self, problem: BotoCoreError) -> ConfigurationError:
        if isinstance(problem, (NoCredentialsError, PartialCredentialsError)):
            return ConfigurationError(
                "There are no AWS credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a "
                "role provides them. Nothing was received."
            )
        if type(problem).__name__ == "NoRegionError":
            return ConfigurationError(
                f"The region of queue {self.name} is not known. Give sqs://{self.name}?region=REGION, or set AWS_REGION."
            )
        return ConfigurationError(f"The AWS SDK cannot be configured: {one_line(str(problem))}")

    def _queue_error(self, problem: Exception) -> QueueError:
        where = self._address.endpoint or f"region {self._client.meta.region_name}"
        if not isinstance(problem, ClientError):
            what = "does not answer" if isinstance(problem, BotoCoreError) else "answers in another way than SQS"
            return QueueError(
                f"SQS at {where} {what} ({type(problem).__name__}). Check network, endpoint and credentials; messages stay "
                "in the queue."
            )
        code = one_line(str(problem.response.get("Error", {}).get("Code", "no code")), 80)
        if code in _MISSING:
            text = f"There is no queue {self.name} at {where}. Check its name, region and account."
        elif code in _DENIED:
            text = (
                f"AWS denies the use of queue {self.name} ({code}). Allow sqs:ReceiveMessage, sqs:DeleteMessage, "
                "sqs:ChangeMessageVisibility, sqs:GetQueueUrl and sqs:GetQueueAttributes."
            )
        elif code in _BAD_CREDENTIALS:
            text = f"AWS rejects the credentials ({code}). Check them, and this machine's clock; messages stay in the queue."
        else:
            text = f"SQS at {where} refused a call ({code}). Messages stay in the queue."
        return QueueError(text, code=code)


class SqsIngress(QueueIngress):
    """Take the vendor's deliveries from a queue of Amazon SQS to a receiver, and delete those that are stored.

    It starts and closes the receiver:

        async with SqsIngress("https://sqs.eu-west-1.amazonaws.com/123456789012/rewards", receiver):
            ...

    Credentials come from the AWS SDK's own chain: variables, files, or the role of the machine. They need the permissions
    `sqs:ReceiveMessage`, `sqs:DeleteMessage`, `sqs:ChangeMessageVisibility`, `sqs:GetQueueUrl` and `sqs:GetQueueAttributes`.

    Args:
        url: `sqs://NAME?region=REGION`, or the queue's URL.
        receiver: Processes the deliveries. Messages have up to 1 MiB, so `max_body=1_048_576` refuses none for its size.
        region: The region, where the URL does not say it; None for the one that the AWS SDK is configured with.
        endpoint: URL of a private endpoint; None for the region's own, or for the host of the queue's URL.
        allow_insecure: Whether plain http may be used outside loopback.
        concurrency: Batches of up to ten messages in progress, 1 to 64.
        visibility: Seconds in which a message that this process lost is received again, 2 to 43,200. While a message is in
            progress it is extended.
        wait: Seconds that one request waits for a message, 1 to 20.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the URL names no queue, holds credentials, or would be reached by plain http outside loopback, or a number is
            out of range.
    """

    @shielded
    def __init__(
        self,
        url: str,
        receiver: Intake,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        allow_insecure: bool = False,
        concurrency: int = 4,
        visibility: int = 60,
        wait: int = MAX_WAIT,
    ) -> None:
        self._sqs = SqsQueue(url, region=region, endpoint=endpoint, allow_insecure=allow_insecure)
        super().__init__(self._sqs, receiver, concurrency=concurrency, visibility=visibility, wait=wait)

    async def start(self) -> None:
        """Find the queue, warn if its settings are unsafe, start the receiver, and begin to take messages; idempotent.

        Raises:
            ConfigurationError: there are no credentials, or no region; nothing was received.
            QueueError: the queue does not exist, cannot be reached, or may not be used; nothing was received.
            StoreError: the receiver's handlers could not be registered; nothing was received.
        """
        try:
            await self._sqs.open()
            await self._warn_of_settings()
            await super().start()
        except BaseException:
            await self._sqs.aclose()
            raise

    async def aclose(self, drain: float = 10.0) -> None:
        """Drain for at most `drain` seconds, then close the receiver by `aclose()`, and the connections; idempotent."""
        try:
            await super().aclose(drain)
        finally:
            await self._sqs.aclose()

    async def _warn_of_settings(self) -> None:
        try:
            found = (await self._sqs.settings()).advice
        except QueueError as problem:
            if problem.code not in _DENIED:
                raise
            found = ["Its settings could not be read. Allow sqs:GetQueueAttributes."]
        for sentence in found:
            logger.warning("queue %s: %s", self._sqs.name, sentence)


def _message(found: Mapping[str, Any]) -> QueuedMessage:
    system = found.get("Attributes", {})
    attributes = found.get("MessageAttributes", {})
    sent = system.get("SentTimestamp")
    return QueuedMessage(
        id=str(found.get("MessageId", "")),
        body=str(found.get("Body", "")),
        attributes={
            name: str(value.get("StringValue", "")) for name, value in attributes.items() if value.get("DataType") == "String"
        },
        handle=str(found.get("ReceiptHandle", "")),
        receives=int(system.get("ApproximateReceiveCount", 1)),
        sent_at=None if sent is None else int(sent) / 1_000,
    )
