"""What a capture writes down: deliveries as they arrived, for their owner, and samples that may be shown to others."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import aiohttp
import pytest
from multidict import CIMultiDict

from original_async import OriginalWebhooks
from tests.texts import said
from tests.webhooks.command_kit import ORIGINALS, body_of, capturing, chunks, headers_of, kept, mode_of, send
from tests.webhooks.listener_process import APP, KEY_ID, SECRETS, SOURCE, delivery, post, signed
from webhooks.cli.capture.recorder import MAX_UNSIGNED


@pytest.mark.slow
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
    said("capture: the verdict on a signature that verifies", report["signature"]["verdict"])
    event = SOURCE.parse(body)
    assert report["identity"] == record["identity"] == event.identity.hex()
    assert report["event"]["operations"] == [{"scope": "default", "kind": "allocation", "uid": "213134081289"}]
    assert (report["event"]["known_name"], report["event"]["settles"], report["event"]["problem"]) == (True, True, None)
    assert mode_of(capture.folder) == 0o700
    assert {mode_of(path) for path in capture.folder.iterdir()} == {0o600}


@pytest.mark.slow
async def test_bytes_that_are_no_text_can_be_had_again(tmp_path: Path) -> None:
    body = b'\xff\xfe{"event": \x00}'
    async with capturing(tmp_path) as capture:
        async with aiohttp.ClientSession() as session:
            assert await post(session, capture.url, chunks(body), signed(body)) == 200
        record = await capture.told()
    assert base64.b64decode(capture.written(record)["body_base64"]) == body
    assert record["sample"] is None
    assert record["body"]["framed_by"] == "chunked"
    assert (record["event"]["problem"] is None, record["event"]["settles"]) == (False, False)
    assert await kept(tmp_path) == [body]


@pytest.mark.slow
async def test_what_is_named_is_taken_out_of_both_files_and_credentials_always(tmp_path: Path) -> None:
    body = body_of()
    credentials = ("Authorization", "Cookie", "Proxy-Authorization", "Set-Cookie", "X-Api-Key", "X-Api-Secret", "X-Auth-Token")
    more = dict.fromkeys((*credentials, "X-Internal"), "tell-nobody")
    options = ["--redact", "data.user.email", "--redact", "data.user.wallets.*.address", "--redact", "header:x-internal"]
    async with capturing(tmp_path, *options) as capture:
        assert await send(capture.url, body, headers_of(body, more=more)) == 200
        record = await capture.told()
    written = capture.written(record)
    redacted = {"data.user.email", "data.user.wallets.0.address", *(f"header:{name}" for name in more)}
    assert set(written["redacted"]) == redacted
    said("capture: what a redacted file says about itself", written["about"])
    for path in capture.folder.iterdir():
        assert not re.search("tell-nobody|jane|d8dA6BF26964", path.read_text("utf-8"))
        assert json.loads(path.read_text("utf-8"))["body"].count("[redacted]") == 2
    assert await kept(tmp_path) == [body]


@pytest.mark.slow
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


@pytest.mark.slow
async def test_a_sample_reads_as_the_delivery_did_and_holds_nothing_of_it(tmp_path: Path) -> None:
    body = body_of()
    async with capturing(tmp_path) as capture:
        more = {"x-app-uid": APP["uid"], "X-Forwarded-For": "198.51.100.55"}
        assert await send(capture.url, body, headers_of(body, more=more)) == 200
        record = await capture.told()
    text = (tmp_path / record["sample"]).read_text("utf-8")
    assert [word for word in (*ORIGINALS, "198.51.100.55", SOURCE.sign(body)[-20:]) if word in text] == []
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


@pytest.mark.slow
async def test_strangers_do_not_fill_the_disk_and_the_vendor_is_captured_all_the_same(tmp_path: Path) -> None:
    body = body_of()
    async with capturing(tmp_path) as capture, aiohttp.ClientSession() as session:
        for _ in range(MAX_UNSIGNED + 5):
            assert await post(session, capture.url, b"{}", {}) == 401
        assert await post(session, capture.url, body) == 200
        told = await capture.rest()
    assert f"{MAX_UNSIGNED + 5} other requests" in told
    assert len(list(capture.folder.iterdir())) == MAX_UNSIGNED + 2


@pytest.mark.slow
async def test_a_further_capture_goes_on_counting_and_overwrites_nothing(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        async with capturing(tmp_path) as capture:
            assert await send(capture.url, delivery(f"{number:012}")) == 200
            assert (await capture.told())["file"] == f"captured/000{number}-reward.allocated.json"
    assert len(list(capture.folder.iterdir())) == 6


async def test_a_folder_that_cannot_be_written_to_loses_no_delivery(tmp_path: Path) -> None:
    body = body_of()
    async with capturing(tmp_path) as capture:
        capture.folder.rmdir()
        assert await send(capture.url, body) == 200
        assert (await capture.told())["file"] is None
        told = await capture.rest()
        assert capture.listener.process.returncode == 7
    said("capture: a folder that cannot be written to", told.splitlines()[-1])
    assert await kept(tmp_path) == [body]


@pytest.mark.slow
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


async def test_a_whole_object_may_be_taken_out_of_a_body_of_any_depth(tmp_path: Path) -> None:
    async with capturing(tmp_path, "--redact", "data.user", "--redact", "data.*.amount") as capture:
        assert await send(capture.url, body_of()) == 200
        record = await capture.told()
    content = json.loads(capture.written(record)["body"])
    assert content["data"]["user"] == content["data"]["allocation"]["amount"] == "[redacted]"
    assert content["data"]["allocation"]["uid"] == "213134081289"
    assert json.loads(capture.sample(record)["body"])["data"]["user"] == "[redacted]"
