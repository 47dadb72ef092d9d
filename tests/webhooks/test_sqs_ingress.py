"""`SqsIngress` on the wire: a real HTTP server plays Amazon SQS, and a gate before it shows and spoils its calls."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiobotocore.signers import AioRequestSigner
from botocore.exceptions import NoCredentialsError

from rewards_core.errors import ConfigurationError
from rewards_core.install_hint import install_hint
from tests.texts import said
from tests.webhooks.fakes import SIGNATURE, FakeSource
from tests.webhooks.listener_process import KEYS, ROOT, delivery
from tests.webhooks.listener_process import signed as a_signature
from tests.webhooks.queue_kit import CREDENTIALS, REGION, SOURCE, Gate, ScriptedStore, Sqs, a_gate, a_queue, body
from webhooks.errors import QueueError
from webhooks.ingress.messages import QueuedMessage
from webhooks.ingress.sqs import SqsIngress, SqsQueue
from webhooks.receiver import Receiver

SECRET = CREDENTIALS["AWS_SECRET_ACCESS_KEY"]


@pytest_asyncio.fixture
async def sqs(sqs_endpoint: str, request: pytest.FixtureRequest) -> AsyncIterator[Sqs]:
    """A queue of this test's own."""
    async with a_queue(sqs_endpoint, f"q-{abs(hash(request.node.nodeid))}", max_receives=3) as queue:
        yield queue


@pytest_asyncio.fixture
async def gate(sqs_endpoint: str) -> AsyncIterator[Gate]:
    async with a_gate(sqs_endpoint) as opened:
        yield opened


class Ingress:
    """A running ingress with its receiver and its store."""

    def __init__(self, url: str, endpoint: str, store: ScriptedStore | None = None, **options: Any) -> None:
        self.store = store or ScriptedStore()
        self.receiver = Receiver(FakeSource(), self.store, max_body=1 << 20)
        self.sqs = SqsIngress(url, self.receiver, endpoint=endpoint, region=REGION, **{"visibility": 2, "wait": 1, **options})

    async def stored(self) -> list[str]:
        return sorted(each.event.ref.uid for each in await self.store.list_events(limit=1000) if each.event.ref is not None)


@asynccontextmanager
async def running(queue: Sqs, gate: Gate, **options: Any) -> AsyncIterator[Ingress]:
    ingress = Ingress(queue.url, gate.url, **options)
    async with ingress.sqs:
        yield ingress


def signed(raw: bytes) -> dict[str, str]:
    return SOURCE.sign(raw)


@pytest.mark.slow
async def test_a_signed_message_is_stored_and_deleted(sqs: Sqs, gate: Gate) -> None:
    async with running(sqs, gate) as ingress:
        raw = '{"event": "thing.done", "uid": "दिवाली"}'.encode()
        await sqs.send(raw, {SIGNATURE.upper(): signed(raw)[SIGNATURE], "X-Correlation-Id": "c-1", "x-attempt": "2"})
        await sqs.until_empty()
        (kept,) = await ingress.store.list_events()
        assert (kept.event.body, kept.event.correlation_id, kept.event.attempt) == (raw, "c-1", "2")
        while ingress.sqs.statistics.deleted < 1:  # it counts what the answer says, which comes a moment later
            await sqs.counts()
        assert ingress.sqs.statistics.oldest_age < 600
    call = gate.calls["ReceiveMessage"][0]
    assert (call["MaxNumberOfMessages"], call["WaitTimeSeconds"], call["VisibilityTimeout"]) == (10, 1, 2)


@pytest.mark.slow
async def test_a_duplicate_is_deleted(sqs: Sqs, gate: Gate) -> None:
    async with running(sqs, gate) as ingress:
        for _ in range(3):
            await sqs.send(body("1"), signed(body("1")))
        await sqs.until_empty()
        assert await ingress.stored() == ["1"]
        assert ingress.receiver.statistics.duplicates == 2


@pytest.mark.slow
async def test_unsigned_messages_are_not_deleted_and_go_to_the_dead_letter_queue(sqs: Sqs, gate: Gate) -> None:
    signatures = [signed(body(str(number)))[SIGNATURE] for number in range(5)]
    unsigned: list[dict[str, Any]] = [
        {},
        {SIGNATURE: "00"},
        {SIGNATURE: {"DataType": "Binary", "BinaryValue": signatures[2].encode()}},
        {SIGNATURE: {"DataType": "String.other", "StringValue": signatures[3]}},
        {f"x-{number}": "y" for number in range(10)},
    ]
    async with running(sqs, gate) as ingress:
        for number, attributes in enumerate(unsigned):
            await sqs.send(body(str(number)), attributes)
        assert {await sqs.dead() for _ in unsigned} == {body(str(number)).decode() for number in range(5)}
        assert ingress.sqs.statistics.left == 15
        assert await ingress.stored() == []
    assert gate.calls["DeleteMessageBatch"] == gate.calls["ChangeMessageVisibilityBatch"] == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [256 * 1024, 1000 * 1024])
async def test_a_huge_body_is_stored(sqs: Sqs, gate: Gate, size: int) -> None:
    raw = b'{"event": "thing.done", "uid": "1", "filler": "%s"}' % (b"x" * (size - 60))
    async with running(sqs, gate) as ingress:
        await sqs.send(raw, signed(raw))
        await sqs.until_empty()
        assert await ingress.stored() == ["1"]


@pytest.mark.slow
async def test_while_the_store_fails_visibility_is_extended_and_nothing_is_deleted(sqs: Sqs, gate: Gate) -> None:
    async with running(sqs, gate) as ingress:
        ingress.store.down = True
        await sqs.send(body("1"), signed(body("1")))
        await gate.until(lambda: len(gate.calls["ChangeMessageVisibilityBatch"]) == 4)
        assert all(
            entry["VisibilityTimeout"] == 2 for call in gate.calls["ChangeMessageVisibilityBatch"] for entry in call["Entries"]
        )
        assert await sqs.counts() == (0, 1)
        assert gate.calls["DeleteMessageBatch"] == []
        ingress.store.down = False
        await sqs.until_empty()
        assert await ingress.stored() == ["1"]


@pytest.mark.slow
async def test_a_batch_of_which_some_are_not_deleted(sqs: Sqs, gate: Gate) -> None:
    def half(arguments: dict[str, Any]) -> tuple[int, Any]:
        first, *others = (entry["Id"] for entry in arguments["Entries"])
        failed = [{"Id": first, "Code": "InternalError", "SenderFault": False}]
        return 200, {"Successful": [{"Id": each} for each in others], "Failed": failed}

    gate.answers["DeleteMessageBatch"] = [half]
    async with running(sqs, gate, concurrency=1) as ingress:
        await sqs.send(body("1"), signed(body("1")))
        await sqs.until_empty()
        assert await ingress.stored() == ["1"]
    assert [len(call["Entries"]) for call in gate.calls["DeleteMessageBatch"]] == [1, 1]


@pytest.mark.slow
async def test_a_batch_change_names_those_that_failed_and_those_not_mentioned(sqs: Sqs, gate: Gate) -> None:
    queue = SqsQueue(sqs.url, endpoint=gate.url, region=REGION)
    await queue.open()
    try:
        await sqs.send(body("1"), {})
        (message,) = await queue.receive(wait=1, visibility=60)
        strange = QueuedMessage(id="2", body="", handle="of nobody")
        (failure,) = await queue.delete([message, strange])
        assert (failure.message, failure.code, failure.retryable) == (strange, "ReceiptHandleIsInvalid", False)
        gate.answers["ChangeMessageVisibilityBatch"] = [lambda _: (200, {})]
        (failure,) = await queue.change_visibility([message], 5)
        assert (failure.message, failure.code, failure.retryable) == (message, "Unanswered", True)
    finally:
        await queue.aclose()
    with pytest.raises(QueueError, match="is closed"):
        await queue.receive(wait=1, visibility=60)


@pytest.mark.slow
async def test_two_consumers_on_one_queue(sqs: Sqs, gate: Gate) -> None:
    store = ScriptedStore()
    async with running(sqs, gate, store=store, visibility=60) as one, running(sqs, gate, store=store, visibility=60):
        await asyncio.gather(*(sqs.send(body(str(uid)), signed(body(str(uid)))) for uid in range(60)))
        await sqs.until_empty()
        assert len(await one.stored()) == 60


@pytest.mark.slow
async def test_an_endpoint_that_goes_away_is_asked_again(sqs: Sqs, gate: Gate) -> None:
    async with running(sqs, gate) as ingress:
        await sqs.send(body("1"), signed(body("1")))
        await sqs.until_empty()
        await gate.close()
        while ingress.sqs.trouble is None:
            await sqs.counts()
        assert gate.url in ingress.sqs.trouble
        await sqs.send(body("2"), signed(body("2")))
        await gate.open()
        await sqs.until_empty()
        assert ingress.sqs.trouble is None
        assert await ingress.stored() == ["1", "2"]


@pytest.mark.slow
async def test_settings_that_are_unsafe_are_named_at_the_start(
    sqs_endpoint: str, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    for number, (receives, attributes) in enumerate([(None, {"MessageRetentionPeriod": "7200"}), (1, {})]):
        async with a_queue(sqs_endpoint, f"unsafe-{number}", receives, **attributes) as queue, running(queue, gate):
            pass
    gate.refuse("GetQueueAttributes", "AccessDeniedException")
    async with a_queue(sqs_endpoint, "unsafe-0", None) as queue, running(queue, gate):
        pass
    said("queue: unsafe settings", "\n".join(each.getMessage() for each in caplog.records))


async def reason(gate: Gate, url: str, **options: Any) -> str:
    """Return why an ingress does not start."""
    ingress = Ingress(url, gate.url, **options)
    with pytest.raises((QueueError, ConfigurationError)) as caught:
        await ingress.sqs.start()
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert SECRET not in shown
    assert caught.value.__context__ is None
    return str(caught.value).replace(gate.url, "http://sqs")


@pytest.mark.slow
async def test_what_keeps_it_from_starting_is_said(sqs: Sqs, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [await reason(gate, "sqs://missing"), await reason(gate, f"{gate.url}/123456789012/missing")]
    for code in ("InvalidClientTokenId", "AccessDenied", "ThrottlingException"):
        gate.refuse("GetQueueUrl", code)
        found.append(await reason(gate, "sqs://rewards"))
    gate.answers["GetQueueUrl"] = [lambda _: (200, "no object")]
    found.append(await reason(gate, "sqs://rewards"))
    await gate.close()
    found.append(await reason(gate, sqs.url.replace(sqs.url.rpartition("/123")[0], gate.url)))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found.append(await reason(gate, "sqs://rewards"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    found.append(await reason(gate, "sqs://rewards"))
    said("queue: why it does not start", "\n".join(found))


async def sign_without_credentials(*_: Any, **_more: Any) -> None:
    raise NoCredentialsError


@pytest.mark.slow
async def test_credentials_that_a_running_queue_loses_are_an_error_of_the_queue(
    sqs: Sqs, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = SqsQueue(sqs.url, region=REGION, endpoint=gate.url)
    await queue.open()
    try:
        monkeypatch.setattr(AioRequestSigner, "sign", sign_without_credentials)
        with pytest.raises(QueueError) as lost:
            await queue.receive(wait=1, visibility=60)
        said("queue: its credentials are gone", re.sub(r"q-\d+", "Q", str(lost.value)))
    finally:
        await queue.aclose()


async def test_without_a_region_it_says_where_to_give_one(gate: Gate) -> None:
    queue = SqsQueue("sqs://rewards", endpoint=gate.url)
    with pytest.raises(ConfigurationError, match="region"):
        await queue.open()
    await queue.aclose()


def test_without_the_extra_it_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['aiobotocore'] = None; sys.modules['aiobotocore.config'] = None\nimport webhooks.ingress.sqs"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    told = done.stderr.splitlines()[-1]
    assert (told.startswith("ImportError: "), install_hint("sqs") in told) == (True, True)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example, as `python examples/sqs_service.py` begins it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    spec = importlib.util.spec_from_file_location("example_sqs_service", ROOT / "examples" / "sqs_service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
async def test_the_example_handles_what_it_stores(example: Any, sqs: Sqs, gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    stopped = asyncio.Event()
    running = asyncio.create_task(example.consume(stopped, sqs.url, endpoint=gate.url, region=REGION, wait=1))
    raw = delivery("324167489835")
    await sqs.send(raw, {"x-webhook-signature": a_signature(raw)["x-webhook-signature"]})
    told = ""
    while "reward.allocated: default/allocation/324167489835" not in told and not running.done():
        await sqs.counts()
        told += capsys.readouterr().out
    stopped.set()
    await running
