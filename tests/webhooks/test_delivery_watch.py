"""The deliveries of a process, as its receivers and its server tell them while somebody looks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.webhooks.listener_process import SOURCE, delivery, signed
from tests.webhooks.receiver_kit import Failing
from webhooks.delivery_watch import Delivery, DeliveryFilter, DeliveryWatch, merged_deliveries
from webhooks.receiver import Receiver
from webhooks.refusals import Refusals
from webhooks.store.memory import MemoryStore


class Connected:
    """What a watch is connected to."""

    def __init__(self) -> None:
        self.observer: Callable[..., None] | None = None
        self.connections = 0

    def __call__(self, observer: Callable[..., None] | None) -> None:
        self.observer = observer
        self.connections += observer is not None

    def add(self, *deliveries: Delivery) -> None:
        assert self.observer is not None
        for one in deliveries:
            self.observer(one)


def new(uid: str = "1", at: float = 1.0, **more: Any) -> Delivery:
    return Delivery(at=at, verdict="new", event="reward.allocated", scope="default", kind="allocation", uid=uid, **more)


def taken_by(watch: DeliveryWatch, **which: str) -> dict[str, Any]:
    """Return what a viewer gets."""
    taken = watch.take([DeliveryFilter(**which)])
    return {"counts": taken["counts"], **taken["shown"][0]}


def test_a_watch_collects_from_the_first_look_to_the_rest() -> None:
    connected = Connected()
    watch = DeliveryWatch(connected)
    assert connected.observer is None
    assert taken_by(watch) == {"counts": {}, "rows": [], "left_out": 0}
    connected.add(
        new("1", seconds=0.0123, size=7, identity=b"\xab", path="/hook"),
        Delivery(at=0.5, verdict="refused", reason="path", path="/hook"),
    )
    taken = taken_by(watch)
    assert taken["counts"] == {"new": 1, "refused": 1}
    assert [(row["verdict"], row["path"], row["ms"], row["identity"]) for row in taken["rows"]] == [
        ("refused", "/hook", None, None),
        ("new", "/hook", 12.3, "ab"),
    ]
    assert taken_by(watch) == {"counts": {}, "rows": [], "left_out": 0}
    connected.add(new("2"))
    watch.rest()
    watch.rest()
    assert connected.observer is None
    assert taken_by(watch) == {"counts": {}, "rows": [], "left_out": 0}
    assert connected.connections == 2


def test_what_nobody_takes_is_bounded_and_strangers_displace_no_delivery() -> None:
    connected = Connected()
    watch = DeliveryWatch(connected)
    taken_by(watch)
    connected.add(new("mine"))
    for number in range(5_000):
        connected.add(Delivery(at=float(number), verdict="refused", reason="missing"))
    taken = taken_by(watch)
    assert taken["counts"] == {"new": 1, "refused": 5_000}
    assert [row["uid"] for row in taken["rows"] if row["verdict"] == "new"] == ["mine"]
    assert (len(taken["rows"]), taken["left_out"]) == (11, 4_990)


def test_what_eight_viewers_are_shown_fits_into_a_message_between_processes() -> None:
    connected = Connected()
    watch = DeliveryWatch(connected)
    wide = "\U0001f4a5" * 5_000
    filters = [DeliveryFilter(), DeliveryFilter(event=wide), *[DeliveryFilter(uid=wide)] * 6]
    watch.take(filters)
    longest: dict[str, Any] = {"event": wide, "uid": wide, "reason": wide, "path": "/" * 200, "peer": "1" * 100}
    for number in range(2_000):
        at = float(number)
        connected.add(Delivery(at=at, verdict="dead letter", **longest))
        connected.add(Delivery(at=at, verdict="refused", **longest))
    taken = watch.take(filters)
    assert len(json.dumps({"answer": "deliveries", "value": taken})) < 4 << 20
    assert taken["counts"] == {"dead letter": 2_000, "refused": 2_000}
    for shown in taken["shown"]:
        assert (len(shown["rows"]), shown["rows"][-1]["at"]) == (60, 1_999.0)  # the newest are kept
        assert shown["left_out"] == 3_940


def test_each_viewer_gets_what_it_wants() -> None:
    connected = Connected()
    watch = DeliveryWatch(connected)
    wanted = [DeliveryFilter(uid="7"), DeliveryFilter(), DeliveryFilter(verdict="duplicate"), DeliveryFilter(event="x")]
    watch.take(wanted)
    connected.add(*(new(str(number), at=float(number)) for number in range(300)))
    taken = watch.take([*wanted, DeliveryFilter(uid="299")])
    assert [row["uid"] for row in taken["shown"].pop()["rows"]] == ["299"]  # a new filter gets what is kept for all
    assert [[row["uid"] for row in shown["rows"]] for shown in taken["shown"]] == [
        ["7"],
        [str(number) for number in range(250, 300)],
        [],
        [],
    ]
    assert [shown["left_out"] for shown in taken["shown"]] == [0, 250, 0, 0]


def test_the_deliveries_of_several_processes_are_told_in_their_order() -> None:
    def told(*moments: float, left_out: int = 0) -> dict[str, Any]:
        return {"rows": [{"at": at, "verdict": "new"} for at in moments], "left_out": left_out}

    one = {"counts": {"new": 2}, "shown": [told(1.0, 3.0), told()]}
    other = {"counts": {"new": 1, "refused": 4}, "shown": [told(2.0, left_out=3), told(*map(float, range(60)))]}
    merged = merged_deliveries([one, other])
    assert merged["counts"] == {"new": 3, "refused": 4}
    assert merged["shown"] == [told(1.0, 2.0, 3.0, left_out=3), told(*map(float, range(10, 60)), left_out=10)]


async def test_a_receiver_tells_its_observer_what_became_of_each_delivery() -> None:
    receiver, seen = Receiver(SOURCE, MemoryStore(), clock=lambda: 5.0), list[Delivery]()
    receiver.observe(seen.append)
    body = delivery("7")
    for each in (body, body, b"[]"):
        assert (await receiver.receive(signed(each), each, "192.0.2.7")).status == 200
    assert (await receiver.receive({}, body, "192.0.2.8")).status == 401
    assert receiver.refusal("GET", {}, 0) is not None
    assert [(one.verdict, one.status, one.uid, one.peer) for one in seen] == [
        ("new", 200, "7", "192.0.2.7"),
        ("duplicate", 200, "7", "192.0.2.7"),
        ("dead letter", 200, None, "192.0.2.7"),
        ("refused", 401, None, "192.0.2.8"),
        ("refused", 405, None, None),
    ]
    assert (seen[0].event, seen[0].kind, seen[0].scope, seen[0].size, seen[0].at) == (
        "reward.allocated",
        "allocation",
        "default",
        len(body),
        5.0,
    )
    assert seen[0].identity == seen[1].identity
    assert seen[0].seconds is not None
    assert seen[2].reason is not None
    assert [one.reason for one in seen[3:]] == ["missing", "method"]
    receiver.observe(None)
    assert (await receiver.receive(signed(body), body)).status == 200
    assert (await receiver.receive({}, body)).status == 401
    assert len(seen) == 5


async def test_a_delivery_that_could_not_be_stored_is_told_as_such() -> None:
    store, seen = Failing(), list[Delivery]()
    receiver = Receiver(SOURCE, store)
    receiver.observe(seen.append)
    body = delivery("7")
    assert (await receiver.receive(signed(body), body)).status == 503
    assert [(one.verdict, one.status) for one in seen] == [("not kept", 503)]


@pytest.mark.parametrize("at_info", [False, True])
async def test_observing_leaves_the_log_as_it_is(caplog: pytest.LogCaptureFixture, at_info: bool) -> None:
    caplog.set_level(logging.INFO if at_info else logging.WARNING, "webhooks.deliveries")
    receiver, seen = Receiver(SOURCE, MemoryStore()), list[Delivery]()
    receiver.observe(seen.append)
    body = delivery("7")
    await receiver.receive(signed(body), body)
    assert len([each for each in caplog.records if each.name == "webhooks.deliveries"]) == at_info
    assert len(seen) == 1


@pytest.mark.parametrize("error", [ValueError("bad"), asyncio.CancelledError("of a future")])
async def test_an_observer_that_raises_is_logged_and_changes_no_reply(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def observer(_: Delivery) -> None:
        raise error

    store = MemoryStore()
    receiver = Receiver(SOURCE, store)
    receiver.observe(observer)
    body = delivery("7")
    for _ in range(2):
        assert (await receiver.receive(signed(body), body)).status == 200
        assert (await receiver.receive({}, body)).status == 401
    refused = receiver.refusal("POST", {}, len(body))
    assert refused is not None
    assert refused.status == 401
    assert (await store.statistics()).ready == 0
    assert len(await store.list_events()) == 1
    told = [each for each in caplog.records if "observer" in each.message]
    assert [(each.levelname, each.exc_info and each.exc_info[1]) for each in told] == [("ERROR", error)]  # not a line for each


async def test_an_observer_that_cannot_be_called_is_refused_and_the_one_before_stays() -> None:
    receiver, seen = Receiver(SOURCE, MemoryStore()), list[Delivery]()
    receiver.observe(seen.append)
    with pytest.raises(TypeError, match=r"^observer: .* int\.$"):
        receiver.observe(5)  # type: ignore[arg-type]
    body = delivery("7")
    assert (await receiver.receive(signed(body), body)).status == 200
    assert len(seen) == 1


async def test_refusals_tell_their_observer_each_of_them() -> None:
    refusals, seen = Refusals(logging.getLogger("test"), clock=lambda: 3.0), list[Delivery]()
    refusals.observe(lambda refusal: seen.append(Delivery.refused(refusal)))
    for _ in range(3):
        refusals.note("path", "192.0.2.7", status=404, path="/x?token=1", length=12)
    refusals.observe(None)
    refusals.note("path")
    assert seen == [
        Delivery(at=3.0, verdict="refused", reason="path", status=404, size=12, path="/x", peer="192.0.2.7") for _ in range(3)
    ]
