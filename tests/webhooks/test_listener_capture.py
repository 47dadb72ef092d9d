"""`webhook-listener capture`, as a process: what it keeps, answers and tells of the first deliveries."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.texts import said
from tests.webhooks.command_kit import body_of, capturing, chunks, headers_of, kept, mode_of, run, send
from tests.webhooks.listener_process import KEY_ID, KEYS, SECRETS, SOURCE, delivery, environment, post, running, signed

REPLAY = "events replay"


@pytest.mark.slow
@pytest.mark.processes_are_measured
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
    said("capture: verdicts on signatures that do not verify", "\n".join(record["signature"]["verdict"] for record in records))
    assert [record["sample"] for record in records] == [None] * 3
    assert all(capture.written(record)["body"].encode() == body for record in records)
    said("capture: the summary of requests that do not verify", told.splitlines()[-1])
    assert await kept(tmp_path) == []
    everything = told + json.dumps(records) + "".join(path.read_text("utf-8") for path in capture.folder.iterdir())
    assert valid not in everything
    assert SECRETS[KEY_ID] not in everything


@pytest.mark.slow
async def test_a_signature_in_base64_is_refused_told_and_ends_with_exit_code_6(tmp_path: Path) -> None:
    body = body_of()
    digest = bytes.fromhex(SOURCE.sign(body).partition(",")[2])
    async with capturing(tmp_path) as capture:
        assert await send(capture.url, body, {"x-webhook-signature": f"{KEY_ID},{base64.b64encode(digest).decode()}"}) == 401
        record = await capture.told()
        assert await capture.ended() == 6
        assert REPLAY not in await capture.rest()
    said("capture: the verdict on a signature in base64", record["signature"]["verdict"])
    assert len(capture.sample(record)["report"]["signature"]["readings"][0]["differs"]) == 1
    assert await kept(tmp_path) == []


@pytest.mark.slow
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
        assert REPLAY in await capture.rest()
    assert record["compared"] == {
        "of_delivery": 1,
        "identity_kept": True,
        "same_bytes": False,
        "members": {"changed": ["sent_at"], "added": [], "gone": []},
        "headers": {"changed": ["x-webhook-signature", "x-webhook-attempt"], "added": ["x-more"], "gone": []},
    }
    assert await kept(tmp_path) == [first]


@pytest.mark.slow
async def test_an_attempt_that_gets_another_identity_is_recognized_by_its_correlation_id(tmp_path: Path) -> None:
    first, second = (delivery("213134081289", complete=False, extra=number) for number in (1, 2))
    async with capturing(tmp_path, "--refuse-first", "--text", env={"COLUMNS": "80"}) as capture:
        for body, status, attempt in ((first, 503, 1), (second, 200, 2)):
            assert await send(capture.url, body, headers_of(body, attempt)) == status
        told = await capture.shown()
    said("capture: two attempts that differ", told)
    assert sorted(await kept(tmp_path)) == [first, second]


@pytest.mark.slow
async def test_a_delivery_repeated_without_being_asked_for_is_compared_too(tmp_path: Path) -> None:
    body = body_of()
    async with capturing(tmp_path, "--count", "2") as capture:
        for attempt in (1, 2):
            assert await send(capture.url, body, headers_of(body, attempt)) == 200
        assert (await capture.told())["compared"] is None
        assert (await capture.told())["compared"]["same_bytes"]
        assert await capture.ended() == 0


@pytest.mark.slow
@pytest.mark.processes_are_measured
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
        told = await capture.shown()
    said("capture: other requests, and a delivery", told)


@pytest.mark.slow
async def test_a_path_may_be_spelled_in_every_way_that_is_answered(tmp_path: Path) -> None:
    async with capturing(tmp_path, "--text", "--count", "2") as capture:
        host, path = capture.url.split("//")[1].split("/", 1)
        for target in (f"http://{host}/{path}", f"/%77{path[1:]}?app=1"):
            reader, writer = await asyncio.open_connection(*host.split(":"))
            body = delivery(target[-12:])
            head = [f"POST {target} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", "Connection: close"]
            lines = [*head, *(f"{name}: {value}" for name, value in signed(body).items()), "", ""]
            writer.write("\r\n".join(lines).encode() + body)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
        told = await capture.rest()
    assert "1. reward.allocated: answered 200\n" in told
    assert "2. reward.allocated: answered 200\n" in told
    assert "404" not in told
    samples = [path.read_text("utf-8") for path in capture.folder.glob("*.sample.json")]
    assert len(samples) == 2
    assert not any(host in sample for sample in samples)


@pytest.mark.slow
async def test_a_path_that_needs_respelling_is_listened_on(tmp_path: Path) -> None:
    async with running(tmp_path, "--path", "/a b", command=["capture"]) as listener:
        assert listener.where["path"] == "/a%20b"


@pytest.mark.slow
@pytest.mark.parametrize(("options", "code"), [([], 4), (["--count", "0"], 0)])
async def test_it_ends_when_its_time_is_over(tmp_path: Path, options: list[str], code: int) -> None:
    async with capturing(tmp_path, "--for", "0.1", *options) as capture:
        assert await capture.ended() == code


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_it_ends_well_when_told_to(tmp_path: Path, number: int) -> None:
    async with capturing(tmp_path, "--count", "0") as capture:
        assert await send(capture.url, delivery("213134081289")) == 200
        await capture.told()
        capture.listener.send_signal(number)
        told = await capture.rest()
        assert REPLAY in told
        assert capture.listener.process.returncode == 0


@pytest.mark.slow
async def test_whatever_a_signed_body_holds_it_is_kept_and_written_down(tmp_path: Path) -> None:
    bodies = [
        b"[" * 262_144,
        b'{"data": 1e999999999}',
        b'{"data":' * 20_000,
        b'{"event": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        b"",
        b"null",
    ]
    async with capturing(tmp_path, "--count", str(len(bodies))) as capture:
        for body in bodies:
            assert await send(capture.url, body) == 200
            assert capture.written(await capture.told())["body"].encode() == body
        assert await capture.ended() == 0
    assert sorted(await kept(tmp_path)) == sorted(bodies)


@pytest.mark.parametrize(
    "options",
    [
        ("--redact", "header:"),
        ("--redact", "data..x"),
        ("--path", "x"),
        ("--path", "/x?y=1"),
        ("--scope", "a b"),
        ("--tls-key", "k.pem"),
        ("--keys-file", "/nowhere"),
        ("--for", "nan"),
        ("--store", "sqlite://nowhere/x"),
        ("--out", os.devnull),
    ],
)
def test_wrong_usage_is_told_before_anything_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", environment()["ORIGINAL_WEBHOOK_KEYS"])
    done = run("capture", "--port", "0", *options)
    assert done.exit_code == 2
    assert options["/nowhere" in options] in re.sub(r"[│\s]+", " ", done.stderr)
    assert environment()["ORIGINAL_WEBHOOK_KEYS"].partition(":")[2] not in done.stderr


@pytest.mark.slow
async def test_with_first_attempts_refused_what_does_not_verify_is_still_answered_401(tmp_path: Path) -> None:
    async with capturing(tmp_path, "--refuse-first") as capture:
        assert await send(capture.url, body_of(), {"x-webhook-signature": f"{KEY_ID},{'0' * 64}"}) == 401
        assert not (await capture.told())["asked_again"]


@pytest.mark.slow
async def test_a_body_that_comes_late_by_an_unknown_key_is_captured_too(tmp_path: Path) -> None:
    body = body_of()
    value = f"other,{SOURCE.sign(body).partition(',')[2]}"
    async with capturing(tmp_path) as capture:
        assert await send(capture.url, chunks(body), {"x-webhook-signature": value}) == 401
        record = await capture.told()
        assert record["body"]["bytes"] == len(body)
        assert await capture.ended() == 6
    assert record["signature"]["readings"][0]["made_with"] == KEY_ID
    assert capture.written(record)["body"].encode() == body


@pytest.mark.slow
async def test_a_capture_beside_a_running_listener_keeps_events_in_its_store(tmp_path: Path) -> None:
    body = delivery("213134081289")
    async with running(tmp_path), capturing(tmp_path) as capture:
        assert await send(capture.url, body) == 200
        assert await kept(tmp_path) == [body]
        assert await capture.ended() == 0


@pytest.mark.slow
@pytest.mark.processes_are_measured
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
    assert (written["body"], record["signature"]["readings"]) == (None, [])
    assert dict(written["headers"])["X-Odd"].encode("utf-8", "surrogateescape") == b"\xff\xfe"


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_what_events_say_and_what_changed_is_told_to_people(tmp_path: Path) -> None:
    two = json.dumps({"event": "reward.allocated", "data": {"allocations": [{"uid": "1"}, {"uid": "2"}]}}).encode()
    bodies = (b'{"event": "asset.minted", "data": {}}', b"no json", two, two, b"none")
    async with capturing(tmp_path, "--text", "--count", "5") as capture:
        for attempt, body in enumerate(bodies):
            assert await send(capture.url, body, headers_of(body, attempt)) == 200
        said("capture: events of several kinds, and repeated ones", await capture.shown())


@pytest.mark.slow
async def test_a_capture_behind_a_proxy_listens_on_a_unix_socket(tmp_path: Path) -> None:
    body = body_of()
    unix = ("--unix", "capture.sock", "--unix-mode", "0666", "--trusted-proxy", "unix")
    async with capturing(tmp_path, *unix) as capture:
        assert capture.listener.where["unix"] == "capture.sock"
        assert mode_of(tmp_path / "capture.sock") == 0o666
        connector = aiohttp.UnixConnector(str(tmp_path / "capture.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            assert await post(session, capture.url, body) == 200
        assert (await capture.told())["peer"] == ""
        assert await capture.ended() == 0
    assert not (tmp_path / "capture.sock").exists()


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_what_a_listener_warns_of_a_capture_warns_of_too(tmp_path: Path) -> None:
    (tmp_path / "a.keys").write_text(KEYS)
    (tmp_path / "a.keys").chmod(0o644)
    body = body_of()
    async with capturing(tmp_path, "--keys-file", "a.keys", "--log-level", "info", "--log-format", "json") as capture:
        assert await send(capture.url, body) == 200
        lines = [json.loads(line) for line in (await capture.rest()).splitlines()]
    logged = {line["logger"]: line for line in lines if "logger" in line}
    assert "a.keys" in logged["webhooks.listener"]["message"]
    assert logged["webhooks.deliveries"]["verdict"] == "new"


@pytest.mark.slow
async def test_a_delivery_for_jobs_of_a_listener_waits_for_it(tmp_path: Path) -> None:
    async with running(tmp_path, "--forward-to", "http://127.0.0.1:9/hooks", "--forward-attempts", "1"):
        pass
    async with capturing(tmp_path) as capture:
        assert await send(capture.url, body_of()) == 200
        assert await capture.ended() == 0
    async with running(tmp_path, "--forward-to", "http://127.0.0.1:9/hooks", "--forward-attempts", "1", "--verbose") as listener:
        await listener.log_until("dead letter")


@pytest.mark.slow
async def test_whoever_stops_reading_its_output_stops_no_capture(tmp_path: Path) -> None:
    body = body_of()
    prefix = ["bash", "-o", "pipefail", "-c", '"$@" | head -n 1', "reader"]
    async with capturing(tmp_path, "--count", "2", prefix=prefix) as capture:
        for attempt in (1, 2):
            assert await send(capture.url, body, headers_of(body, attempt)) == 200
        assert await capture.ended() == 0
    assert len(list(capture.folder.iterdir())) == 4


@pytest.mark.slow
async def test_a_capture_under_nohup_goes_on_when_its_terminal_is_closed(tmp_path: Path) -> None:
    async with capturing(tmp_path, prefix=["nohup"]) as capture:
        status = Path(f"/proc/{capture.listener.process.pid}/status").read_text()
        ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
        assert ignored >> (signal.SIGHUP - 1) & 1
        capture.listener.send_signal(signal.SIGHUP)
        assert await send(capture.url, body_of()) == 200
        assert await capture.ended() == 0
