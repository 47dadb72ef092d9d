"""`webhook-listener trigger`: a sample event, signed and sent as the vendor does."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from rewards_core.errors import SignatureError
from rewards_core.operations import OperationRef
from tests.texts import said
from tests.webhooks.command_kit import Target, destination, lines, records, run
from tests.webhooks.listener_process import KEYS, SOURCE
from webhooks.cli.trigger import Shape, parse_override, sample_body


@pytest.fixture(autouse=True)
def keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)


@pytest.fixture
def target(folder: Path) -> Iterator[Target]:
    with destination() as target:
        yield target


def test_trigger_sends_what_the_vendor_would_sign(target: Target) -> None:
    result = run("trigger", "reward.claimed", "--to", target.url, "--uid", "77", "--status", "failed", "--amount", "9.9")
    assert (lines(result)[0]["status"], lines(result)[0]["uid"]) == (200, "77")
    ((headers, raw),) = target.got
    SOURCE.verify(headers, raw)
    event = SOURCE.parse(raw, headers)
    assert event.ref == OperationRef("default", "claim", "77")
    assert event.resource is not None
    assert (event.resource["status"], event.resource["amount"]) == ("failed", "9.9")
    assert (event.attempt, headers["x-app-uid"]) == ("1", "UB2DG8MW5KBQ")


def test_trigger_names_the_operation_to_wait_for(target: Target) -> None:
    (told,) = lines(run("trigger", "--to", target.url))
    ref = SOURCE.parse(target.got[0][1]).ref
    assert ref is not None
    assert told["uid"] == ref.uid
    assert "(uid n7)" in run("trigger", "--to", target.url, "--set", "data.allocation.uid=n7", "--text").output
    assert lines(run("trigger", "--to", target.url, "--body", "opaque"))[0]["uid"] is None


def test_trigger_sends_every_digit_it_was_given(target: Target) -> None:
    assert run("trigger", "--to", target.url, "--set", "data.allocation.amount=1.10", "--set", "data.n=1e2").exit_code == 0
    ((_, raw),) = target.got
    assert b'"amount":1.10' in raw
    assert b'"n":1E+2' in raw


def test_trigger_can_send_duplicates_and_bodies_of_every_shape(target: Target) -> None:
    assert run("trigger", "--to", target.url, "--duplicate", "2", "--body", "uid", "--delay", "0.01").exit_code == 0
    assert len({raw for _, raw in target.got}) == 1
    assert [headers["x-webhook-attempt"] for headers, _ in target.got] == ["1", "2", "3"]
    read = SOURCE.parse(target.got[0][1])
    assert (read.ref is None, read.resource) == (False, None)
    assert run("trigger", "asset.minted", "--to", target.url, "--body", "opaque", "--set", "data=[]").exit_code == 0
    assert SOURCE.parse(target.got[-1][1]).ref is None


def test_trigger_with_a_bad_signature_is_refused_by_who_looks(target: Target) -> None:
    target.status = 401
    result = run("trigger", "--to", target.url, "--bad-signature")
    assert result.exit_code == 6
    said("trigger: refused", result.stderr.replace(target.url, "URL"))
    headers, raw = target.got[0]
    with pytest.raises(SignatureError):
        SOURCE.verify(headers, raw)


def test_trigger_says_when_the_event_is_not_kept(target: Target) -> None:
    target.status = 503
    result = run("trigger", "--to", target.url)
    assert (result.exit_code, records(result)[0]["status"]) == (7, 503)
    said("trigger: answered 503", result.stderr.replace(target.url, "URL"))
    result = run("trigger", "--to", "http://127.0.0.1:9/")
    assert (result.exit_code, result.stdout) == (7, "")
    said("trigger: nobody listens", result.stderr)


def test_an_event_whose_answer_is_lost_may_have_arrived() -> None:
    def hang_up() -> None:
        peer, _ = listening.accept()
        peer.recv(65_536)
        peer.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        thread = threading.Thread(target=hang_up)
        thread.start()
        result = run("trigger", "--to", url)
        thread.join()
    assert (result.exit_code, result.stdout) == (7, "")
    said("trigger: a lost answer", result.stderr.replace(url, "URL"))


def test_trigger_refuses_what_it_cannot_put_into_the_body() -> None:
    found = [run("trigger", "--set", words) for words in ("data", "=1", "a..b=1", "event.x=1")]
    assert {(result.exit_code, result.stdout) for result in found} == {(2, "")}
    said("trigger: wrong values of --set", "".join(result.stderr for result in found))


@pytest.mark.parametrize(
    ("words", "app"),
    [
        ("data={}", None),
        ("data.app=null", None),
        ("data.app.uid=7", None),
        ('data.app.uid="a\\nb"', None),
        ('data.app.uid="\u00fc"', None),
        ("data.app.uid=OTHERAPP0000", "OTHERAPP0000"),
    ],
)
def test_trigger_sends_bodies_without_a_usable_app_too(target: Target, words: str, app: str | None) -> None:
    assert run("trigger", "--to", target.url, "--set", words).exit_code == 0
    ((headers, raw),) = target.got
    SOURCE.verify(headers, raw)
    assert headers.get("x-app-uid") == app


def test_a_sample_takes_overrides_at_any_depth() -> None:
    overrides = [parse_override("data.allocation.nonce=n1"), parse_override("data.new.deep=[1]"), parse_override("event=other")]
    body = sample_body(
        "reward.allocated", shape=Shape.FULL, uid="1", status="done", amount="1", app_uid="APP", overrides=overrides
    )
    assert (body["data"]["allocation"]["nonce"], body["data"]["new"]["deep"], body["event"]) == ("n1", [1], "other")
    assert body["data"]["app"]["uid"] == "APP"


def test_trigger_trusts_the_authority_it_is_given_and_no_other(folder: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    with destination(context) as target:
        assert lines(run("trigger", "--to", target.url, "--cacert", "ca.pem"))[0]["status"] == 200
        assert len(target.got) == 1
        for options in ([], ["--cacert", "other.pem"]):
            result = run("trigger", "--to", target.url, *options)
            assert (result.exit_code, result.stdout) == (7, "")
            assert "--cacert" in result.stderr
        assert len(target.got) == 1


def test_an_authority_that_cannot_be_used_sends_nothing(folder: Path) -> None:
    (folder / "empty.pem").touch()
    https = ("--to", "https://127.0.0.1:9/")
    given = ([*https, "--cacert", "none.pem"], [*https, "--cacert", "empty.pem"], ["--cacert", "empty.pem"])
    found = [run("trigger", *options) for options in given]
    assert {(result.exit_code, result.stdout) for result in found} == {(2, "")}
    said("trigger: authorities that cannot be used", "".join(result.stderr for result in found))
