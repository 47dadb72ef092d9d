"""The walk over the frames of an error finds a secret wherever a local variable shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen

from rewards_core.secrets import Secret, shielded
from tests.canary import locals_with

CANARY = "canary-0b7e"


@frozen
class Shows:
    text: str


def caught(run: Callable[[], Any]) -> Exception:
    try:
        run()
    except Exception as error:
        return error
    raise AssertionError


def ours(source: str, name: str = "enkash_async.made_here", **globals_: Any) -> Callable[..., Any]:
    """Return the function `run` of a module that passes for one of the packages."""
    namespace = {"__name__": name, **globals_}
    exec(source, namespace)
    run: Callable[..., Any] = namespace["run"]
    return run


@pytest.mark.parametrize(
    "value",
    [
        CANARY,
        f"Basic {CANARY}=",
        CANARY.encode(),
        bytearray(CANARY.encode()),
        {"Authorization": f"Bearer {CANARY}"},
        {CANARY: None},
        [(1, {"deep": {CANARY}})],
        Shows(CANARY),
        ValueError(CANARY),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_local_variable_that_shows_a_secret_is_named_without_its_value(value: Any) -> None:
    run = ours("def run(token):\n    raise LookupError")

    assert locals_with(caught(lambda: run(value)), [CANARY]) == ["enkash_async.made_here.run: token"]


@pytest.mark.parametrize(
    "source",
    [
        "def run(token):\n    try:\n        fail(token)\n    except LookupError as problem:\n        raise KeyError from problem",
        "def run(token):\n    try:\n        fail(token)\n    except LookupError:\n        raise KeyError from None",
        "def run(token):\n    try:\n        fail(token)\n    except LookupError as e:\n        raise ExceptionGroup('2', [e])",
    ],
    ids=["cause", "context", "group"],
)
def test_the_errors_that_it_came_from_are_walked(source: str) -> None:
    fail = ours("def run(held):\n    raise LookupError", "rewards_core.made_here")

    found = locals_with(caught(lambda: ours(source, "tests.elsewhere", fail=fail)(CANARY)), [CANARY])

    assert found == ["rewards_core.made_here.run: held"]


def test_hidden_secrets_and_the_callers_own_frames_are_nothing_to_report() -> None:
    run = ours("def run(token):\n    raise LookupError")
    held = CANARY  # as whoever calls the library holds it

    assert locals_with(caught(lambda: run(Secret(held))), [held]) == []


def test_a_shield_takes_the_frames_that_hold_secrets_away() -> None:
    run = shielded(ours("def run(token):\n    try:\n        {}[0]\n    except KeyError:\n        raise LookupError"))

    assert locals_with(caught(lambda: run(CANARY)), [CANARY]) == []


def test_a_shield_takes_the_frames_of_a_groups_members_away() -> None:
    fail = ours("def run(held):\n    raise LookupError", "rewards_core.made_here")

    def run() -> None:
        raise ExceptionGroup("two at once", [caught(lambda: fail(CANARY))])

    assert locals_with(caught(run), [CANARY]) == ["rewards_core.made_here.run: held"]
    assert locals_with(caught(shielded(run)), [CANARY]) == []
