"""Settings and arguments are checked where they are given, before anything starts."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from attrs import evolve

import webhooks
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import FakeSource, FakeVendor
from tests.webhooks.world import a_world
from tests.wrong_values import (
    ABOVE_ZERO,
    AT_LEAST_ZERO,
    FLAG,
    FUNCTION,
    MAPPING,
    ONE_OR_MORE,
    PATH,
    Instance,
    Kind,
    Number,
    cases,
    fields,
    refuses,
)
from webhooks import (
    Completions,
    HandlerPolicy,
    MemoryStore,
    PollPolicy,
    Receiver,
    RestartPolicy,
    SQLiteStore,
    Store,
    open_store,
)
from webhooks.ingress.asgi import AsgiIngress
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.ingress.limits import ServerLimits
from webhooks.ingress.peers import Networks
from webhooks.refusals import RefusalRing, Refusals

SETTINGS: dict[type[Any], dict[str, Any]] = {
    HandlerPolicy: {
        "concurrency": ONE_OR_MORE,
        "timeout": ABOVE_ZERO,
        "lease": ABOVE_ZERO,
        "attempts": ONE_OR_MORE,
        "first_delay": ABOVE_ZERO,
        "max_delay": ABOVE_ZERO,
        "poll_interval": ABOVE_ZERO,
        "give_up_after": evolve(ABOVE_ZERO, or_none=True),
    },
    RestartPolicy: {
        "first_delay": ABOVE_ZERO,
        "max_delay": ABOVE_ZERO,
        "healthy_after": AT_LEAST_ZERO,
        "max_crashes": evolve(ONE_OR_MORE, or_none=True),
    },
    PollPolicy: {
        "first_after": ABOVE_ZERO,
        "growth": Number((0.99, 10.01)),
        "max_interval": ABOVE_ZERO,
        "jitter": Number((-0.1, 1.1)),
        "max_per_second": ABOVE_ZERO,
    },
    ServerLimits: {
        "header_bytes": ONE_OR_MORE,
        "header_seconds": ABOVE_ZERO,
        "answer_seconds": ABOVE_ZERO,
        "idle_seconds": ABOVE_ZERO,
        "linger_seconds": ABOVE_ZERO,
        "drain_grace_seconds": ABOVE_ZERO,
        "connections": ONE_OR_MORE,
        "connections_per_peer": ONE_OR_MORE,
        "handshakes": ONE_OR_MORE,
        "buffered_bytes": ONE_OR_MORE,
    },
}
A_CLIENT = frozenset({"scope", "ref_of", "read_operation", "find_operations", "parse_operation", "conclude"})
WAIT = Number((-1, -0.001), or_none=True)


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_setting_is_tried(kind: type[Any]) -> None:
    assert fields(kind) == SETTINGS[kind].keys()


@pytest.mark.parametrize(("name", "value", "error"), cases(SETTINGS[HandlerPolicy]))
def test_wrong_handler_policies_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(HandlerPolicy, name, value, error)


@pytest.mark.parametrize("timeout", [60, 61])
def test_handlers_never_outlive_their_lease(timeout: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout: "):
        HandlerPolicy(timeout=timeout, lease=60)


@pytest.mark.parametrize(("name", "value", "error"), cases(SETTINGS[RestartPolicy]))
def test_wrong_restart_policies_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(RestartPolicy, name, value, error)


@pytest.mark.parametrize(("name", "value", "error"), cases(SETTINGS[PollPolicy]))
def test_wrong_poll_policies_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(PollPolicy, name, value, error)


@pytest.mark.parametrize(("name", "value", "error"), cases(SETTINGS[ServerLimits]))
def test_wrong_limits_of_peers_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(ServerLimits, name, value, error)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases(
        {
            "handlers": Instance(),
            "max_body": ONE_OR_MORE,
            "body_timeout": ABOVE_ZERO,
            "store": Kind((5, None, True, {}, [], int), ("text", "redis://x")),
            "service": Kind((5, None, b"x"), ("a/b",)),
            "clock": FUNCTION,
            "random": FUNCTION,
        }
    ),
)
def test_wrong_arguments_of_receivers_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    def build(**wrong: Any) -> Receiver:
        return Receiver(FakeSource(), **{"store": MemoryStore()} | wrong)

    refuses(build, name, value, error)


@pytest.mark.parametrize(("name", "value", "error"), cases({"drain": AT_LEAST_ZERO}))
async def test_wrong_drains_stop_nothing(name: str, value: Any, error: type[Exception]) -> None:
    async with Receiver(FakeSource(), MemoryStore()) as receiver:
        with pytest.raises(error, match=f"{name}: give "):
            await receiver.aclose(**{name: value})


@pytest.mark.parametrize(("name", "value", "error"), cases({"receiver": Instance(or_none=False)}))
def test_asgi_serves_receivers_alone(name: str, value: Any, error: type[Exception]) -> None:
    refuses(AsgiIngress, name, value, error)


@pytest.mark.parametrize("wrong", [5, None, "source", [FakeSource(), 5], FakeSource])
def test_what_is_no_source_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="sources: give "):
        Receiver(wrong, MemoryStore())


@pytest.mark.parametrize("wrong", [[], [FakeSource(), FakeSource()]])
def test_each_scope_has_one_source(wrong: Any) -> None:
    with pytest.raises(ValueError, match="sources: give "):
        Receiver(wrong, MemoryStore())


@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases(
        {
            "polling": Instance(),
            "restarts": Instance(),
            "trust_event_body": FLAG,
            "client": Instance(or_none=False),
            "store": Instance(or_none=False),
            "clock": FUNCTION,
            "random": FUNCTION,
        }
    ),
)
def test_wrong_arguments_of_completions_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    def build(**wrong: Any) -> Completions:
        options: dict[str, Any] = {"client": FakeVendor(), "store": MemoryStore()}
        return Completions(**options | wrong)

    refuses(build, name, value, error)


def test_completions_do_not_recommend_the_url_that_they_refuse() -> None:
    with pytest.raises(TypeError, match=r"^store: .*open_store\(url\)"):
        Completions(FakeVendor(), "memory:")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value", "error"), cases({"timeout": WAIT, "poll_now": FLAG}))
@virtual_time
async def test_wrong_arguments_of_waits_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    async with a_world() as world:
        refuses(lambda **wrong: world.completions.as_completed(["1"], **wrong), name, value, error)
        with pytest.raises(error, match=f"{name}: give "):
            await world.completions.wait("1", **{name: value})
        assert not world.vendor.reads


@pytest.mark.parametrize("wrong", ["1", 5, None])
@virtual_time
async def test_as_completed_takes_several_operations(wrong: Any) -> None:
    async with a_world() as world:
        with pytest.raises(TypeError, match=r"^operations: "):
            world.completions.as_completed(wrong)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases({"max_events": ONE_OR_MORE, "retention": ABOVE_ZERO, "clock": FUNCTION}),
)
def test_wrong_arguments_of_memory_stores_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(MemoryStore, name, value, error)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases({"busy_timeout": Number((-1, 86_401)), "clock": FUNCTION, "uptime": FUNCTION, "path": PATH}),
)
def test_wrong_arguments_of_file_stores_are_refused_before_a_file_is_made(
    name: str, value: Any, error: type[Exception], tmp_path: Path
) -> None:
    refuses(lambda **wrong: SQLiteStore(**{"path": tmp_path / "inbox.db"} | wrong), name, value, error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [":memory:", Path(":memory:"), "sqlite:///inbox.db", "postgresql://me:hunter2@db/rewards"])
def test_a_file_store_takes_neither_memory_nor_a_url_for_a_file(path: str | Path) -> None:
    with pytest.raises(ValueError, match=r"^path: .*MemoryStore\(\) or open_store\(url\)") as caught:
        SQLiteStore(path)
    assert "hunter2" not in str(caught.value)
    assert not any("hunter2" in repr(each.frame.f_locals) for each in caught.traceback[1:])


def test_the_url_of_memory_as_others_write_it_names_no_file() -> None:
    with pytest.raises(ValueError, match=r"^store: .*'memory:'.*'sqlite:'"):
        open_store("sqlite:///:memory:")


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store whose file, if it has one, is not even made."""
    yield MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "inbox.db")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["purge", "erase_bodies", "purge_outcomes"])
@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases({"older_than": AT_LEAST_ZERO, "limit": Number((-1,), whole=True, or_none=True)}),
)
async def test_wrong_ages_and_limits_purge_nothing(
    store: Store, method: str, name: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"^{name}: give "):
        await getattr(store, method)(**{"older_than": 0, name: value})


@pytest.mark.parametrize(("name", "value", "error"), cases({"limit": Number((-1,), whole=True, or_none=True)}))
async def test_a_wrong_limit_forgets_no_identity(store: Store, name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}: give "):
        await store.purge_identities(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases({"keep": ABOVE_ZERO, "keep_dead": Number((0, -1, 0.5, 14 * 86_400 - 1)), "keep_bodies": Number((0, -1), or_none=True)}),
)
async def test_wrong_ages_keep_an_upkeep_from_removing(store: Store, name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}: give "):
        await store.upkeep(**{"keep": 1.0, name: value})


async def test_dead_letters_are_kept_for_as_long_as_an_event_may_wait_for_a_process() -> None:
    assert await MemoryStore().upkeep(keep=1.0, keep_dead=14 * 86_400)
    with pytest.raises(ValueError, match=r"^keep_dead: "):
        await MemoryStore().upkeep(keep=1.0, keep_dead=7 * 86_400)


@pytest.mark.parametrize(("value", "error"), [(5, TypeError), (None, TypeError), ("", ValueError), (" 1", ValueError)])
async def test_only_a_user_can_be_forgotten(store: Store, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^uid: "):
        await store.forget_user(value)


LISTING: dict[str, Any] = {
    "scope": Kind((5, b"x", [])),
    "state": Kind((5, "ready")),
    "name": Kind((5, b"x")),
    "ref": Kind((5, "default/allocation/1")),
    "before_id": Kind(("x", 1.5, True), (-1, 2**63)),
    "limit": Number((-1, 2**63), whole=True),
}


@pytest.mark.parametrize(("name", "value", "error"), cases(LISTING))
async def test_wrong_conditions_find_no_silence(name: str, value: Any, error: type[Exception]) -> None:
    store = MemoryStore()
    with pytest.raises(error, match=rf"^{name}: give "):
        await store.list_events(**{name: value})


@pytest.mark.parametrize("which", ["event_name", "name"])
@pytest.mark.parametrize(("value", "error"), [(5, TypeError), (b"x", TypeError), ("", ValueError), (" x", ValueError)])
def test_a_name_that_nothing_can_have_registers_no_handler(which: str, value: Any, error: type[Exception]) -> None:
    receiver = Receiver(FakeSource(), MemoryStore())
    with pytest.raises(error, match=rf"^{which}: "):
        receiver.on(**{"event_name": "*", which: value})
    with pytest.raises(TypeError, match=r"^event_name: .*None"):
        receiver.on(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases({"app": Instance(or_none=False), "path": Kind((5, None, b"/"), ("", "webhooks", "\0"))}),
)
def test_deliveries_are_served_under_paths_of_applications_alone(name: str, value: Any, error: type[Exception]) -> None:
    app = web.Application()
    with pytest.raises(error, match=rf"^{name}: give "):
        Receiver(FakeSource(), MemoryStore()).register(**{"app": app, "path": "/x", name: value})
    assert not list(app.router.routes())


@pytest.mark.parametrize(("value", "error"), [(5, TypeError), ("10.0.0.0/8", TypeError), ([5], TypeError), (["x"], ValueError)])
def test_networks_are_made_of_a_list_of_texts(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"give "):
        Networks(value)


@pytest.mark.parametrize(("name", "value", "error"), cases({"clock": FUNCTION, "logger": Instance(or_none=False)}))
def test_wrong_arguments_of_refusals_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(lambda **wrong: Refusals(**{"logger": logging.getLogger("refusals-test")} | wrong), name, value, error)


@pytest.mark.parametrize(("name", "value", "error"), cases({"size": ONE_OR_MORE}))
def test_wrong_sizes_of_a_ring_of_refusals_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(RefusalRing, name, value, error)


@pytest.mark.parametrize("lacking", ["scope", "parse_operation"])
def test_what_lacks_a_part_of_a_client_is_refused(lacking: str) -> None:
    vendor: Any = type("Vendor", (), dict.fromkeys(A_CLIENT - {lacking}, len))()
    with pytest.raises(TypeError, match=rf"^client: .* {lacking}, not Vendor"):
        Completions(vendor, MemoryStore())


@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases(
        {
            "limits": Instance(),
            "routes": MAPPING,
            "trusted": Instance(),
            "allowed": Instance(),
            "refusals": Instance(),
            "observe": FUNCTION,
        }
    ),
)
async def test_wrong_arguments_of_armoured_servers_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(lambda **wrong: HardenedServer(**{"routes": {}} | wrong), name, value, error)


@pytest.mark.parametrize("name", webhooks.__all__)
def test_nobody_is_asked_how_to_sleep(name: str) -> None:
    offered = getattr(webhooks, name)
    if callable(offered):
        assert "sleep" not in inspect.signature(offered).parameters
