"""`webhook-listener capture`, as a process: what it keeps, answers, writes down and tells of the first deliveries."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from original_async import OriginalWebhooks
from tests.webhooks.command_kit import CONTROL, alone
from tests.webhooks.listener_process import (
    APP,
    KEY_ID,
    SECRETS,
    SOURCE,
    ListenerProcess,
    delivery,
    environment,
    post,
    running,
    signed,
)
from webhooks.cli.capturing import MOST_STRANGERS
from webhooks.store.sqlite import SQLiteStore

BODY = (
    '{"data": {"app": {"uid": "UB2DG8MW5KBQ", "name": "दिवाली Rewards", "environment": "Development"},\n'
    ' "allocation": {"uid": "213134081289", "status": "done", "reward_uid": "112144981245", "to_user_uid": "223144788242",\n'
    '  "amount": "1.50", "nonce": "diwali_2024_0001", "created_at": "2023-08-10T14:07:14.494142Z"},\n'
    ' "user": {"uid": "223144788242", "email": "jane.doe@mail.getoriginal.com", "wallets":\n'
    '  [{"address": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",\n'
    '   "url": "https:\\/\\/amoy.polygonscan.com\\/address\\/0xd8dA6BF2"}]},\n'
    ' "transaction_log": {"type": "mint", "chain_id": 80002, "block": 8812345.5}},\n'
    ' "event": "reward.allocated", "event_time": "2024-08-01T11:24:36.531141+00:00", "sent_at": "%s"}'
)
CORRELATION = "6f1d0a4e-9a55-4b0e-8b5f-2f6f3c1d9a10"
ORIGINALS = (
    "UB2DG8MW5KBQ",
    "213134081289",
    "112144981245",
    "223144788242",
    "diwali",
    "jane",
    "getoriginal",
    "d8dA6BF2",
    "polygonscan",
    "8812345",
    CORRELATION,
    KEY_ID,
    "दिवाली",
    "2024-08-01",
    "1.50",
)


def body_of(sent_at: str = "2024-08-01T11:24:37.000001+00:00") -> bytes:
    return (BODY % sent_at).encode()


def headers_of(body: bytes, attempt: int = 1, more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**signed(body), "x-webhook-attempt": str(attempt), "x-webhook-correlation-id": CORRELATION, **(more or {})}


class CaptureProcess:
    """A running `capture`.

    Attributes:
        listener: The process and where it listens.
        folder: Where it writes.
    """

    def __init__(self, listener: ListenerProcess) -> None:
        self.listener = listener
        self.url = listener.url
        self.folder = listener.folder / "captured"

    async def told(self) -> dict[str, Any]:
        """Return the next line of its output."""
        assert self.listener.process.stdout is not None
        return json.loads(await self.listener.process.stdout.readline())

    async def ended(self) -> int:
        """Return its exit code once it has ended by itself."""
        return await self.listener.process.wait()

    async def rest(self) -> str:
        """Return what it still tells, on both streams, until it has ended."""
        out, err = await self.listener.process.communicate()
        return (out + err).decode()

    def written(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return json.loads((self.listener.folder / record["file"]).read_text("utf-8"))

    def sample(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return json.loads((self.listener.folder / record["sample"]).read_text("utf-8"))


@asynccontextmanager
async def capturing(folder: Path, *options: str, **more: Any) -> AsyncIterator[CaptureProcess]:
    where = said if "--text" in options else json.loads
    async with running(folder, *options, command=["capture"], where=where, **more) as listener:
        yield CaptureProcess(listener)


def said(line: bytes) -> dict[str, str]:
    """Return where a listener listens by what it says to a person."""
    found = re.match(
        r"listening on (\S+) for /webhooks/original; events go to sqlite:///inbox.db, files to captured$", line.decode()
    )
    assert found is not None
    return {"url": found[1]}


async def send(url: str, body: Any, headers: Mapping[str, str] | None = None) -> int:
    async with aiohttp.ClientSession() as session:
        return await post(session, url, body, headers)


async def kept(folder: Path) -> list[bytes]:
    """Return the bodies in the store of a folder."""
    store = SQLiteStore(folder / "inbox.db")
    try:
        return [stored.event.body for stored in await store.list_events(limit=100)]
    finally:
        await store.aclose()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_delivery_is_kept_acknowledged_and_written_down_as_it_arrived(tmp_path: Path) -> None:
    body = body_of()
    headers = CIMultiDict(headers_of(body))
    headers.add("X-Repeated", "one")
    headers.add("X-Repeated", "two")
    async with capturing(tmp_path) as capture:
        async with aiohttp.ClientSession() as session, session.post(capture.url, data=body, headers=headers) as answer:
            assert answer.status == 200
        record = await capture.told()
        assert await capture.ended() == 0
    assert await kept(tmp_path) == [body]
    written = capture.written(record)
    assert written["body"].encode() == body
    assert [value for name, value in written["headers"] if name == "X-Repeated"] == ["one", "two"]
    assert ["x-webhook-signature", SOURCE.sign(body)] in written["headers"]
    assert (written["method"], written["target"], written["http_version"]) == ("POST", "/webhooks/original", "1.1")
    assert written["peer"] == "127.0.0.1"
    assert written["redacted"] == []
    report = written["report"]
    assert report["answered"] == 200
    assert report["body"] == {
        "bytes": len(body),
        "framed_by": "content-length",
        "content_type": "application/json",
        "content_encoding": None,
        "is_json": True,
    }
    assert report["signature"]["verdict"] == (
        f"accepted: HMAC-SHA256 of the raw body with the secret of key {KEY_ID} as text, in lower-case hex."
    )
    event = SOURCE.parse(body)
    assert report["identity"] == record["identity"] == event.identity.hex()
    assert report["event"]["operations"] == [{"scope": "default", "kind": "allocation", "uid": "213134081289"}]
    assert (report["event"]["known_name"], report["event"]["settles"], report["event"]["problem"]) == (True, True, None)
    assert mode_of(capture.folder) == 0o700
    assert {mode_of(path) for path in capture.folder.iterdir()} == {0o600}


async def test_bytes_that_are_no_text_can_be_had_again(tmp_path: Path) -> None:
    body = b'\xff\xfe{"event": \x00}'
    async with capturing(tmp_path) as capture:
        async with aiohttp.ClientSession() as session:
            assert await post(session, capture.url, chunks(body), signed(body)) == 200
        record = await capture.told()
    assert base64.b64decode(capture.written(record)["body_base64"]) == body
    assert record["sample"] is None
    assert record["body"]["framed_by"] == "chunked"
    assert record["event"]["problem"] == "the body could not be read as a JSON object"
    assert await kept(tmp_path) == [body]


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body[:3]
    yield body[3:]


async def test_what_does_not_verify_is_refused_written_down_and_does_not_count(tmp_path: Path) -> None:
    body = body_of()
    valid = SOURCE.sign(body).partition(",")[2]
    async with capturing(tmp_path) as capture:
        assert await send(capture.url, body, {"Content-Type": "application/json"}) == 401
        assert await send(capture.url, body, {"x-webhook-signature": f"{KEY_ID},{'0' * 64}"}) == 401
        assert await send(capture.url, body, {"x-webhook-signature": f"unknown,{'0' * 64}"}) == 401
        records = [await capture.told() for _ in range(3)]
        capture.listener.send_signal(signal.SIGINT)
        told = await capture.rest()
        assert capture.listener.process.returncode == 0
    assert [record["signature"]["reason"] for record in records] == ["missing", "mismatch", "unknown_key"]
    assert "There is no digest in it." in records[0]["signature"]["verdict"]
    assert "No reading of it fits a configured key" in records[1]["signature"]["verdict"]
    assert [record["sample"] for record in records] == [None] * 3
    assert all(capture.written(record)["body"].encode() == body for record in records)
    assert "No delivery that a configured key signed came. 3 other requests came." in told
    assert await kept(tmp_path) == []
    everything = told + json.dumps(records) + "".join(path.read_text("utf-8") for path in capture.folder.iterdir())
    assert valid not in everything
    assert SECRETS[KEY_ID] not in everything


async def test_a_signature_in_base64_is_refused_told_and_ends_with_exit_code_6(tmp_path: Path) -> None:
    body = body_of()
    digest = bytes.fromhex(SOURCE.sign(body).partition(",")[2])
    async with capturing(tmp_path) as capture:
        assert await send(capture.url, body, {"x-webhook-signature": f"{KEY_ID},{base64.b64encode(digest).decode()}"}) == 401
        record = await capture.told()
        assert await capture.ended() == 6
    assert record["signature"]["verdict"] == (
        f"NOT accepted, though it reads as HMAC-SHA256 of the raw body with the secret of key {KEY_ID} as text, in base64: it is "
        "written in base64, not in hex. Please report this with the sample: verify must learn it."
    )
    assert capture.sample(record)["report"]["signature"]["readings"][0]["differs"] == ["it is written in base64, not in hex"]
    assert await kept(tmp_path) == []


async def test_the_first_attempt_is_kept_and_refused_so_that_the_next_can_be_compared(tmp_path: Path) -> None:
    first, second = body_of("2024-08-01T11:24:37.000001+00:00"), body_of("2024-08-01T11:24:47.000001+00:00")
    async with capturing(tmp_path, "--refuse-first") as capture:
        assert await send(capture.url, first, headers_of(first)) == 503
        record = await capture.told()
        assert await kept(tmp_path) == [first]
        assert (record["asked_again"], record["compared"]) == (True, None)
        assert await send(capture.url, second, headers_of(second, 2, {"X-More": "1"})) == 200
        record = await capture.told()
        assert await capture.ended() == 0
    assert record["compared"] == {
        "of_delivery": 1,
        "identity_kept": True,
        "same_bytes": False,
        "members": {"changed": ["sent_at"], "added": [], "gone": []},
        "headers": {"changed": ["x-webhook-signature", "x-webhook-attempt"], "added": ["x-more"], "gone": []},
    }
    assert await kept(tmp_path) == [first]


async def test_an_attempt_that_gets_another_identity_is_recognized_by_its_correlation_id(tmp_path: Path) -> None:
    first, second = (delivery("213134081289", complete=False, extra=number) for number in (1, 2))
    async with capturing(tmp_path, "--refuse-first", "--text", env={"COLUMNS": "80"}) as capture:
        for body, status, attempt in ((first, 503, 1), (second, 200, 2)):
            assert await send(capture.url, body, headers_of(body, attempt)) == status
        told = await capture.rest()
    assert (
        "   compared with 1: ANOTHER identity, so that it counts as a further event; members changed data.allocation.extra; "
        "headers changed x-webhook-signature, x-webhook-attempt.\n"
    ) in told
    assert "1. reward.allocated, attempt 1: answered 503, though it is kept, so that it comes again\n" in told
    assert "   event: allocation 213134081289; does not settle it by itself: the vendor is asked.\n" in told
    assert sorted(await kept(tmp_path)) == [first, second]


async def test_a_delivery_repeated_without_being_asked_for_is_compared_too(tmp_path: Path) -> None:
    body = body_of()
    async with capturing(tmp_path, "--count", "2") as capture:
        for attempt in (1, 2):
            assert await send(capture.url, body, headers_of(body, attempt)) == 200
        assert (await capture.told())["compared"] is None
        assert (await capture.told())["compared"]["same_bytes"]
        assert await capture.ended() == 0


async def test_what_is_named_is_taken_out_of_both_files_and_credentials_always(tmp_path: Path) -> None:
    body = body_of()
    more = {"Authorization": "Bearer tell-nobody", "Cookie": "session=tell-nobody", "X-Internal": "tell-nobody"}
    options = ["--redact", "data.user.email", "--redact", "data.user.wallets.*.address", "--redact", "header:x-internal"]
    async with capturing(tmp_path, *options) as capture:
        assert await send(capture.url, body, headers_of(body, more=more)) == 200
        record = await capture.told()
    written = capture.written(record)
    redacted = {"data.user.email", "data.user.wallets.0.address", "header:Authorization", "header:Cookie", "header:X-Internal"}
    assert set(written["redacted"]) == redacted
    assert "its signature cannot be verified again" in written["about"]
    for path in capture.folder.iterdir():
        assert not re.search("tell-nobody|jane|d8dA6BF26964", path.read_text("utf-8"))
        assert json.loads(path.read_text("utf-8"))["body"].count("[redacted]") == 2
    assert await kept(tmp_path) == [body]


async def test_a_body_of_which_a_member_cannot_be_taken_out_is_left_out(tmp_path: Path) -> None:
    body = b"jane.doe@mail.getoriginal.com"
    async with capturing(tmp_path, "--redact", "data.user.email") as capture:
        assert await send(capture.url, body) == 200
        record = await capture.told()
    assert (capture.written(record)["body"], capture.written(record)["redacted"]) == (None, ["*"])


async def test_a_secret_that_the_vendor_repeats_is_written_nowhere(tmp_path: Path) -> None:
    secret = SECRETS[KEY_ID]
    body = delivery("213134081289", note=secret, nonce=secret)
    async with capturing(tmp_path) as capture:
        assert await send(f"{capture.url}?secret={secret}", body, headers_of(body, more={"X-Secret": secret})) == 200
        record = await capture.told()
    assert set(capture.written(record)["redacted"]) == {"a webhook secret", "header:X-Secret"}
    assert secret not in json.dumps(record) + "".join(path.read_text("utf-8") for path in capture.folder.iterdir())


async def test_a_sample_reads_as_the_delivery_did_and_holds_nothing_of_it(tmp_path: Path) -> None:
    body = body_of()
    async with capturing(tmp_path) as capture:
        more = {"x-app-uid": APP["uid"], "X-Forwarded-For": "203.0.113.77"}
        assert await send(capture.url, body, headers_of(body, more=more)) == 200
        record = await capture.told()
    text = (tmp_path / record["sample"]).read_text("utf-8")
    assert [word for word in (*ORIGINALS, "203.0.113.77", SOURCE.sign(body)[-20:]) if word in text] == []
    sample = json.loads(text)
    made, came = sample["body"].encode(), SOURCE.parse(body)
    read = SOURCE.parse(made, CIMultiDict(sample["headers"]))
    assert (read.name, read.problem, len(read.also)) == (came.name, None, 0)
    assert read.ref is not None
    assert read.ref.kind == "allocation"
    assert read.resource is not None
    assert read.resource["status"] == "done"
    assert re.fullmatch(r"[1-9]\.[1-9]0", read.resource["amount"])
    shape = re.compile(r"[A-Za-z0-9é\u0900-\u097f]+")
    assert len(shape.sub("", made.decode())) == len(shape.sub("", body.decode()))
    content = json.loads(made)
    assert content["data"]["user"]["uid"] == content["data"]["allocation"]["to_user_uid"]
    assert dict(sample["headers"])["x-app-uid"] == content["data"]["app"]["uid"]
    assert sample["report"]["event"]["operations"][0]["uid"] == read.ref.uid
    assert (content["data"]["transaction_log"]["chain_id"], content["data"]["transaction_log"]["type"]) == (80002, "mint")
    assert "\\/" in made.decode()
    assert await verifies_when_signed_again(made)


async def verifies_when_signed_again(body: bytes) -> bool:
    return OriginalWebhooks(SECRETS).verify(signed(body), body) == KEY_ID


async def test_requests_elsewhere_and_of_other_kinds_are_told_and_do_not_count(tmp_path: Path) -> None:
    body = body_of()
    async with capturing(tmp_path, "--text") as capture, aiohttp.ClientSession() as session:
        base = capture.url.removesuffix("/webhooks/original")
        assert await post(session, f"{base}/hooks", body, signed(body)) == 404
        async with session.get(capture.url) as answer:
            assert answer.status == 405
        assert await post(session, capture.url, body, {**signed(body), "Content-Encoding": "gzip"}) == 415
        assert await post(session, capture.url, b"x" * 300_000) == 413
        assert await post(session, capture.url, body) == 200
        told = await capture.rest()
    assert not CONTROL.intersection(told)
    assert "1. POST /hooks: answered 404, for deliveries are expected at /webhooks/original\n" in told
    assert "2. GET /webhooks/original: answered 405\n" in told
    assert "4. POST /webhooks/original: answered 413\n   file: captured/0004-not-verified.json\n" in told
    assert "5. reward.allocated: answered 200\n" in told
    assert "1 delivery written to captured. 4 other requests came." in told


async def test_strangers_do_not_fill_the_disk_and_the_vendor_is_captured_all_the_same(tmp_path: Path) -> None:
    body = body_of()
    async with capturing(tmp_path) as capture, aiohttp.ClientSession() as session:
        for _ in range(MOST_STRANGERS + 5):
            assert await post(session, capture.url, b"{}", {}) == 401
        assert await post(session, capture.url, body) == 200
        told = await capture.rest()
    assert f"{MOST_STRANGERS} are written down" in told
    assert f"{MOST_STRANGERS + 5} other requests came." in told
    assert len(list(capture.folder.iterdir())) == MOST_STRANGERS + 2


async def test_a_further_capture_goes_on_counting_and_overwrites_nothing(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        async with capturing(tmp_path) as capture:
            assert await send(capture.url, delivery(f"{number:012}")) == 200
            assert (await capture.told())["file"] == f"captured/000{number}-reward.allocated.json"
    assert len(list(capture.folder.iterdir())) == 6


@pytest.mark.parametrize(("options", "code"), [([], 4), (["--count", "0"], 0)])
async def test_it_ends_when_its_time_is_over(tmp_path: Path, options: list[str], code: int) -> None:
    async with capturing(tmp_path, "--for", "0.1", *options) as capture:
        assert await capture.ended() == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_it_ends_well_when_told_to(tmp_path: Path, number: int) -> None:
    async with capturing(tmp_path, "--count", "0") as capture:
        assert await send(capture.url, delivery("213134081289")) == 200
        await capture.told()
        capture.listener.send_signal(number)
        assert "1 delivery written to captured." in await capture.rest()
        assert capture.listener.process.returncode == 0


@pytest.mark.parametrize(
    "body",
    [b"[" * 262_144, b'{"data": 1e999999999}', b'{"data":' * 20_000, b'{"event": "\\ud800"}', b"\xef\xbb\xbf{}", b"", b"null"],
)
async def test_whatever_a_signed_body_holds_it_is_kept_and_written_down(tmp_path: Path, body: bytes) -> None:
    async with capturing(tmp_path) as capture:
        assert await send(capture.url, body) == 200
        assert capture.written(await capture.told())["body"].encode() == body
        assert await capture.ended() == 0
    assert await kept(tmp_path) == [body]


async def test_a_folder_that_cannot_be_written_to_loses_no_delivery(tmp_path: Path) -> None:
    body = body_of()
    async with capturing(tmp_path) as capture:
        capture.folder.rmdir()
        assert await send(capture.url, body) == 200
        assert (await capture.told())["file"] is None
        assert "could not be written down" in await capture.rest()
    assert await kept(tmp_path) == [body]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--redact", "header:"], "--redact: give a member such as data.user.email, or header:NAME"),
        (["--redact", "data..x"], "--redact: give a member"),
        (["--path", "x"], "--path: 'x' does not begin with '/'"),
        (["--scope", "a b"], "--scope"),
        (["--tls-key", "k.pem"], "--tls-key needs a certificate"),
        (["--keys-file", "/nowhere"], "cannot be read"),
        (["--for", "nan"], "--for"),
        (["--store", "sqlite://nowhere/x"], "--store"),
    ],
)
def test_wrong_usage_is_told_before_anything_listens(tmp_path: Path, options: list[str], words: str) -> None:
    done = alone("capture", "--port", "0", *options, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert words in re.sub(r"[│\s]+", " ", done.stderr)
    assert environment()["ORIGINAL_WEBHOOK_KEYS"].partition(":")[2] not in done.stderr


async def test_with_first_attempts_refused_what_does_not_verify_is_still_answered_401(tmp_path: Path) -> None:
    async with capturing(tmp_path, "--refuse-first") as capture:
        assert await send(capture.url, body_of(), {"x-webhook-signature": f"{KEY_ID},{'0' * 64}"}) == 401
        assert not (await capture.told())["asked_again"]


async def test_a_body_that_comes_late_by_an_unknown_key_is_captured_too(tmp_path: Path) -> None:
    body = body_of()
    value = f"other,{SOURCE.sign(body).partition(',')[2]}"
    async with capturing(tmp_path) as capture:
        assert await send(capture.url, chunks(body), {"x-webhook-signature": value}) == 401
        record = await capture.told()
        assert record["body"]["bytes"] == len(body)
        assert await capture.ended() == 6
    assert f"it names the key other, but the secret of key {KEY_ID} made it" in record["signature"]["verdict"]
    assert capture.written(record)["body"].encode() == body


async def test_two_captures_into_one_folder_overwrite_nothing(tmp_path: Path) -> None:
    async with capturing(tmp_path) as one, capturing(tmp_path) as other:
        for capture, uid in ((one, "213134081289"), (other, "213134081290")):
            assert await send(capture.url, delivery(uid)) == 200
        records = [await one.told(), await other.told()]
    assert [record["file"] for record in records] == [
        "captured/0001-reward.allocated.json",
        "captured/0001-reward.allocated-2.json",
    ]
    assert [one.written(record)["report"]["event"]["operations"][0]["uid"] for record in records] == [
        "213134081289",
        "213134081290",
    ]
    assert one.sample(records[0])["body"] != one.sample(records[1])["body"]


async def test_a_capture_beside_a_running_listener_keeps_events_in_its_store(tmp_path: Path) -> None:
    body = delivery("213134081289")
    async with running(tmp_path), capturing(tmp_path) as capture:
        assert await send(capture.url, body) == 200
        assert await kept(tmp_path) == [body]
        assert await capture.ended() == 0


async def test_a_whole_object_may_be_taken_out_of_a_body_of_any_depth(tmp_path: Path) -> None:
    async with capturing(tmp_path, "--redact", "data.user", "--redact", "data.*.amount") as capture:
        assert await send(capture.url, body_of()) == 200
        record = await capture.told()
    content = json.loads(capture.written(record)["body"])
    assert content["data"]["user"] == content["data"]["allocation"]["amount"] == "[redacted]"
    assert content["data"]["allocation"]["uid"] == "213134081289"
    assert json.loads(capture.sample(record)["body"])["data"]["user"] == "[redacted]"


async def test_a_body_that_is_too_long_or_breaks_off_is_told_without_it(tmp_path: Path) -> None:
    async with capturing(tmp_path, "--count", "0") as capture:
        assert await send(capture.url, chunks(b"x" * 300_000), signed(b"x")) == 413
        assert ((await capture.told())["answered"], len(list(capture.folder.iterdir()))) == (413, 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(capture.url.split(":")[2].split("/")[0]))
        head = b"POST /webhooks/original HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n"
        writer.write(head + b"X-Odd: \xff\xfe\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"5\r\nhello\r\nzz\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
        record = await capture.told()
    written = capture.written(record)
    assert (written["body"], record["signature"]["verdict"]) == (None, "not looked at: the body was not read.")
    assert dict(written["headers"])["X-Odd"].encode("utf-8", "surrogateescape") == b"\xff\xfe"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"event": "asset.minted", "data": {}}', "event: names no operation."),
        (b"no json", "event: a dead letter: the body could not be read as a JSON object."),
        (
            json.dumps({"event": "reward.allocated", "data": {"allocations": [{"uid": "1"}, {"uid": "2"}]}}).encode(),
            "event: allocation 1 and 1 more; does not settle it by itself",
        ),
    ],
)
async def test_what_an_event_says_is_told_to_people(tmp_path: Path, body: bytes, words: str) -> None:
    async with capturing(tmp_path, "--text", "--count", "2") as capture:
        for attempt in (1, 2):
            assert await send(capture.url, body, headers_of(body, attempt)) == 200
        told = await capture.rest()
    assert words in told
    assert "compared with 1: the same identity; the same bytes; headers changed x-webhook-attempt." in told


async def test_no_json_is_compared_as_bytes(tmp_path: Path) -> None:
    async with capturing(tmp_path, "--text", "--count", "2") as capture:
        for attempt, body in ((1, b"no json"), (2, b"none")):
            assert await send(capture.url, body, headers_of(body, attempt)) == 200
        assert "no JSON to compare" in await capture.rest()


async def test_a_capture_behind_a_proxy_listens_on_a_unix_socket(tmp_path: Path) -> None:
    body = body_of()
    async with capturing(tmp_path, "--unix", "capture.sock", "--trusted-proxy", "unix") as capture:
        assert capture.listener.where["unix"] == "capture.sock"
        connector = aiohttp.UnixConnector(str(tmp_path / "capture.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            assert await post(session, capture.url, body) == 200
        assert (await capture.told())["peer"] == ""
        assert await capture.ended() == 0
    assert not (tmp_path / "capture.sock").exists()


async def test_a_delivery_for_jobs_of_a_listener_waits_for_it(tmp_path: Path) -> None:
    async with running(tmp_path, "--forward-to", "http://127.0.0.1:9/hooks", "--forward-attempts", "1"):
        pass
    async with capturing(tmp_path) as capture:
        assert await send(capture.url, body_of()) == 200
        assert await capture.ended() == 0
    async with running(tmp_path, "--forward-to", "http://127.0.0.1:9/hooks", "--forward-attempts", "1", "--verbose") as listener:
        await listener.log_until("dead letter")
