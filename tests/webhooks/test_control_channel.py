"""The control channel between supervisor and workers, and the sums of their metrics."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from webhooks.cli.control_channel import Channel, settings_from_json, settings_to_json
from webhooks.cli.metric_families import cumulative, families_of, summed
from webhooks.cli.settings import AdminSettings, ForwardSettings, ListenerSettings, PollSettings, TlsSettings
from webhooks.cli.sources import SourceSpec
from webhooks.cli.unix_socket import UnixSettings
from webhooks.ingress.limits import ServerLimits


async def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair()
    return await Channel.over(one), await Channel.over(other)


async def test_settings_arrive_as_they_were_sent() -> None:
    settings = ListenerSettings(
        sources=(SourceSpec(path="/a", scope="a", app_uid="UB2DG8MW5KBQ", keys_file=Path("a.keys")), SourceSpec()),
        store="sqlite:///inbox.db",
        unix=UnixSettings(path=Path("in.sock"), mode=0o600, group="www-data"),
        tls=TlsSettings(certificate=Path("cert.pem"), key=Path("key.pem"), minimum="1.3"),
        admin=AdminSettings(token_file=Path("token")),
        forward=ForwardSettings(url="http://127.0.0.1:9/", attempts=3, timeout=0.5),
        poll=PollSettings(scope="a", max_per_second=7.5),
        limits=ServerLimits(connections=7),
        trusted=("10.0.0.0/8",),
        keep_days=0.5,
        workers=3,
    )
    here, there = await pair()
    here.send({"settings": settings_to_json(settings)})
    message = await there.receive()
    assert message is not None
    assert settings_from_json(message["settings"]) == settings
    here.close()
    there.close()


@pytest.mark.parametrize(("workers", "kind"), [(0, ValueError), (65, ValueError), (2.0, TypeError)])
def test_there_are_1_to_64_workers(workers: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^workers: .* 64"):
        ListenerSettings(sources=[SourceSpec()], store="memory:", workers=workers)


async def test_a_channel_ends_with_the_other_process() -> None:
    here, there = await pair()
    here.send({"do": "stop"})
    here.close()
    here.close()
    here.send({"do": "stop"})
    assert await there.receive() == {"do": "stop"}
    assert await there.receive() is None
    there.close()


async def test_half_a_message_is_dropped() -> None:
    one, other = socket.socketpair()
    there = await Channel.over(other)
    with one:
        one.send(b'{"do": ')
    assert await there.receive() is None
    there.close()


async def test_an_endless_message_is_refused() -> None:
    here, there = await pair()
    here.send({"do": "x" * (4 << 20)})
    with pytest.raises(ValueError, match="limit"):
        await there.receive()
    here.close()
    there.close()
    await asyncio.sleep(0)


def test_metrics_are_summed_and_ended_processes_keep_their_cumulative_ones() -> None:
    def families(path: str, count: float) -> list[object]:
        return [
            ["webhooks_taken", "Deliveries.", "counter", [["webhooks_taken_total", {"path": path}, count]]],
            ["webhooks_open", "Connections.", "gauge", [["webhooks_open", {}, count]]],
            ["webhooks_time", "Seconds.", "histogram", [["webhooks_time_bucket", {"le": "+Inf"}, count]]],
            ["process_cpu", "Seconds.", "counter", [["process_cpu_total", {"worker": path}, count]]],
        ]

    taken = [["webhooks_taken_total", {"path": "/a"}, 5.0], ["webhooks_taken_total", {"path": "/b"}, 2.0]]
    assert summed([families("/a", 1.0), [], families("/b", 2.0), families("/a", 4.0)]) == [
        ["webhooks_taken", "Deliveries.", "counter", taken],
        ["webhooks_open", "Connections.", "gauge", [["webhooks_open", {}, 7.0]]],
        ["webhooks_time", "Seconds.", "histogram", [["webhooks_time_bucket", {"le": "+Inf"}, 7.0]]],
        [
            "process_cpu",
            "Seconds.",
            "counter",
            [["process_cpu_total", {"worker": "/a"}, 5.0], ["process_cpu_total", {"worker": "/b"}, 2.0]],
        ],
    ]
    assert [name for name, *_ in cumulative(families("/a", 1.0))] == ["webhooks_taken", "webhooks_time"]


def test_samples_with_other_labels_are_not_added_up() -> None:
    one = [["f", "Help.", "gauge", [["f", {"a": "x"}, 1.0]]]]
    two = [["f", "Help.", "gauge", [["f", {"b": "x"}, 2.0]]]]
    assert summed([one, two]) == [["f", "Help.", "gauge", [["f", {"a": "x"}, 1.0], ["f", {"b": "x"}, 2.0]]]]


def test_metrics_of_a_process_are_plain_data_with_its_name_and_without_moments() -> None:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", ["path"], registry=registry).labels("/a").inc()
    assert families_of(registry.collect(), "3") == [
        ["jobs", "Jobs.", "counter", [["jobs_total", {"path": "/a", "worker": "3"}, 1.0]]]
    ]
