"""What can be registered as a handler, and under which name."""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import Any, cast

import pytest

from rewards_core.operations import Event
from tests.texts import said
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import FakeSource
from tests.webhooks.receiver_kit import Notes, Post, opened
from tests.webhooks.world import settle
from webhooks import MemoryStore, Receiver


async def plain(event: Event) -> None:
    """Do nothing."""


class Callable_:
    async def __call__(self, event: Event) -> None:
        """Do nothing."""

    async def method(self, event: Event, *, attempts: int = 3) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    "handler", [plain, partial(plain), Callable_(), Callable_().method, partial(Callable_().method, attempts=2)]
)
def test_what_is_called_with_an_event_and_awaited_can_be_a_handler(handler: Any) -> None:
    assert Post().receiver.on("*", name="app.note")(handler) is handler


def synchronous(event: Event) -> None:
    """Do nothing."""


async def without() -> None:
    """Do nothing."""


async def with_two(event: Event, attempt: int) -> None:
    """Do nothing."""


async def by_keyword(*, event: Event) -> None:
    """Do nothing."""


def test_what_cannot_be_called_with_an_event_alone_is_refused_with_the_right_shape() -> None:
    unasynchronous: tuple[Any, ...] = (synchronous, "app.note", Callable_, lambda event: plain(event))
    unfit: tuple[Any, ...] = (without, with_two, by_keyword, partial(plain, cast("Event", None)))
    told = []
    for handler in (*unasynchronous, *unfit):
        with pytest.raises(TypeError) as refused:
            Post().receiver.on("*")(handler)
        told.append(re.sub(r" at 0x\w+", "", str(refused.value)))
    said("what cannot be called with an event alone is refused", "\n".join(told))


def test_an_event_name_that_no_source_knows_is_warned_about_once_with_the_closest(caplog: pytest.LogCaptureFixture) -> None:
    class Knowing(FakeSource):
        event_names = frozenset({"thing.done", "thing.made"})

    post = Post(source=Knowing())
    for name in ("thing.done", "*", "outcome.conflict"):
        post.receiver.on(name, name="app.note")(plain)
    assert caplog.text == ""
    post.receiver.on("thing.doen", name="app.note")(plain)
    post.receiver.on("something.else", name="app.other")(plain)
    said("an event name that no source knows is warned about once with the closest", "\n".join(caplog.messages))


def test_a_source_that_does_not_say_what_it_knows_may_know_every_event(caplog: pytest.LogCaptureFixture) -> None:
    class Knowing(FakeSource):
        event_names = frozenset({"thing.done"})

    receiver = Receiver([Knowing(), FakeSource("other")], MemoryStore())
    receiver.on("thing.doen")(plain)
    assert caplog.text == ""


@pytest.mark.parametrize("service", ["a/b", "", " a"])
def test_a_service_has_a_name_without_a_slash(service: str) -> None:
    with pytest.raises(ValueError, match="service"):
        Receiver(FakeSource(), MemoryStore(), service=service)


def test_a_name_that_could_be_another_service_s_handler_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        Post().receiver.on("*", name="shop/app.note")(plain)
    said("a name that could be another service s handler is refused", caught.value)
    Post(service="shop").receiver.on("*", name="shop/app.note")(plain)
    Post().receiver.on("*", name="forward /webhooks/thing")(plain)


@virtual_time
async def test_two_handlers_of_one_name_are_refused() -> None:
    post = Post()
    post.receiver.on("*", name="app.note")(Notes())
    with pytest.raises(ValueError) as caught:
        post.receiver.on("thing.done", name="app.note")(Notes())
    said("two handlers of one name are refused", caught.value)


@virtual_time
async def test_handlers_come_before_the_start() -> None:
    post = Post()
    post.receiver.on("*", name="app.note")(Notes())
    async with opened(post):
        with pytest.raises(RuntimeError) as caught:
            post.receiver.on("*", name="app.late")(Notes())
        said("handlers come before the start", caught.value)


@virtual_time
async def test_what_a_handler_raises_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def noisy() -> None:
        raise ValueError("one\ntwo\x1b[31m" + "x" * 1_000)

    caplog.set_level(logging.WARNING)
    post = Post(attempts=1)
    post.receiver.on("*", name="app.note")(Notes(noisy))
    async with opened(post):
        await post.send()
        await settle()
        ((_, reason),) = await post.dead()
    assert reason is not None
    assert reason.isprintable()
    assert len(reason) <= 300
