"""Fixtures for tests of services that grant rewards.

    @pytest.mark.rewards(fail_rate=1)
    async def test_a_failed_reward_is_reported(rewards): ...

pytest finds this plugin wherever rewards-async is installed. It does nothing in suites that do not use it: no fixture is
automatic, and the sandboxes are imported by the first test that asks for one.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest import IsolatedAsyncioTestCase

import pytest

if TYPE_CHECKING:
    from vendor_sandboxes.server import Sandbox
    from vendor_sandboxes.testing import EnkashServer, OriginalServer, Rewards, RewardsBooks, SignDelivery
    from vendor_sandboxes.testing.servers import SandboxServer
    from vendor_sandboxes.testing.thread import LoopThread

try:
    _asyncio_fixture: Any = import_module("pytest_asyncio").fixture
    _asyncio_fixture(loop_scope="function")  # older versions lack it
except (ImportError, TypeError):
    _asyncio_fixture = None

_MARK = "rewards"
_MARK_HELP = (
    "rewards(**options): options of the test's sandboxes, such as fail_rate=1 or webhook_loss=1; "
    "with allow_left_over=True the test may leave work unfinished"
)
_ALLOW = "allow_left_over"
_SANDBOXES = {"original_sandbox": "OriginalSandbox", "enkash_sandbox": "EnkashSandbox"}
_NOT_OPTIONS = frozenset({"host", "port", "clock", "options"})
_LOOP_SCOPES = ("function", "class", "module", "package", "session")
_FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line("markers", _MARK_HELP)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether a test failed or was skipped: what it then leaves unfinished is not worth an error."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or (call.when != "teardown" and not report.passed)
    return report


@pytest.fixture(scope="session")
def _sandbox_thread() -> Iterator[LoopThread]:
    from vendor_sandboxes.testing.thread import LoopThread

    with LoopThread() as thread:
        yield thread


@pytest.fixture
def original_sandbox(
    request: pytest.FixtureRequest, _sandbox_thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OriginalServer]:
    """A sandboxed Original on loopback. `from_env` finds it, and polls are fast.

    The blockchain confirms at once, unless `@pytest.mark.rewards(confirm=...)` says otherwise.
    """
    from vendor_sandboxes.testing.servers import OriginalServer
    from webhooks.testing import fast_polls

    with fast_polls(), _serving(request, _sandbox_thread, OriginalServer, {"confirm": 0.01}) as server:
        _set_environment(server.environment, monkeypatch, without=("ORIGINAL_ENVIRONMENT", "ORIGINAL_APP_UID"))
        yield server


@pytest.fixture
def enkash_sandbox(
    request: pytest.FixtureRequest, _sandbox_thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EnkashServer]:
    """A sandboxed EnKash on loopback. `from_env` finds it."""
    from vendor_sandboxes.testing.servers import EnkashServer

    with _serving(request, _sandbox_thread, EnkashServer, {}) as server:
        _set_environment(server.environment, monkeypatch, without=("ENKASH_ACCESS_TOKEN", "ENKASH_COMPANY_ID"))
        yield server


@pytest.fixture
def rewards(request: pytest.FixtureRequest, original_sandbox: OriginalServer) -> Rewards:  # noqa: ARG001
    """A client, a receiver and completions, wired to a sandboxed Original, in the event loop of the test.

    A synchronous test passes coroutines to `rewards.run`, and so do its fixtures.
    """
    found: Rewards = request.getfixturevalue(_variant_for(request))
    return found


def _variant_for(request: pytest.FixtureRequest) -> str:
    """Return the name of the fixture that starts `Rewards` in the event loop in which the test will run."""
    function = request.function
    function = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    if not inspect.iscoroutinefunction(function):
        return "_rewards_in_thread"
    if issubclass(request.cls or object, IsolatedAsyncioTestCase):
        pytest.fail(
            "The fixture rewards cannot reach the event loop of an IsolatedAsyncioTestCase: use a function.", pytrace=False
        )
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        if (backend if isinstance(backend, str) else backend[0]) != "asyncio":
            pytest.fail("The fixture rewards needs asyncio: let the fixture anyio_backend return it.", pytrace=False)
        return "_rewards_in_anyio"
    marker = request.node.get_closest_marker("asyncio")
    if _asyncio_fixture is None or marker is None:
        pytest.fail("In an asynchronous test the fixture rewards needs pytest-asyncio 1.0 or newer, or anyio.", pytrace=False)
    scope = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")
    return f"_rewards_in_{scope or request.config.getini('asyncio_default_test_loop_scope')}_loop"


@pytest.fixture
def _rewards_in_thread(
    request: pytest.FixtureRequest, original_sandbox: OriginalServer, _sandbox_thread: LoopThread
) -> Iterator[Rewards]:
    from vendor_sandboxes.testing import Rewards

    rewards = _sandbox_thread.run(Rewards(original_sandbox, _sandbox_thread).__aenter__())
    try:
        yield rewards
        left_over = _sandbox_thread.run(rewards.left_over())
    finally:
        _sandbox_thread.run(rewards.__aexit__())
    _fail_for(left_over, request)


async def _start(request: pytest.FixtureRequest, original_sandbox: OriginalServer) -> AsyncIterator[Rewards]:
    from vendor_sandboxes.testing import Rewards

    async with Rewards(original_sandbox) as rewards:
        yield rewards
        left_over = await rewards.left_over()
    _fail_for(left_over, request)


@pytest.fixture
async def _rewards_in_anyio(
    request: pytest.FixtureRequest,
    original_sandbox: OriginalServer,
    anyio_backend: object,  # noqa: ARG001 - with it, anyio runs this
) -> AsyncIterator[Rewards]:
    async for rewards in _start(request, original_sandbox):
        yield rewards


def _in_loop(scope: str) -> Callable[..., Any]:
    async def start(request: pytest.FixtureRequest, original_sandbox: OriginalServer) -> AsyncIterator[Rewards]:
        async for rewards in _start(request, original_sandbox):
            yield rewards

    fixture: Callable[..., Any] = _asyncio_fixture(start, loop_scope=scope)
    return fixture


if _asyncio_fixture is not None:
    globals().update({f"_rewards_in_{scope}_loop": _in_loop(scope) for scope in _LOOP_SCOPES})


@pytest.fixture
def rewards_books(request: pytest.FixtureRequest) -> RewardsBooks:
    """The books of the test's sandboxes: `rewards_books.paid("user", "1.23", once=True)`."""
    from vendor_sandboxes.testing import RewardsBooks

    names = _sandboxes_of(request.node) or ["original_sandbox"]
    return RewardsBooks([request.getfixturevalue(name) for name in names])


@pytest.fixture
def signed_delivery(monkeypatch: pytest.MonkeyPatch) -> SignDelivery:
    """A function that returns signed deliveries for tests of a route; `OriginalWebhooks.from_env` accepts them.

    `signed_delivery("reward.allocated", uid="636154847295", amount="1.23")` has `headers` and a `body`.
    """
    from vendor_sandboxes.original import WEBHOOK_KEYS
    from vendor_sandboxes.testing.deliveries import sign_delivery
    from vendor_sandboxes.testing.servers import webhook_keys

    _set_environment({"ORIGINAL_WEBHOOK_KEYS": webhook_keys(WEBHOOK_KEYS)}, monkeypatch, without=("ORIGINAL_APP_UID",))
    return sign_delivery


def _set_environment(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, *, without: Sequence[str]) -> None:
    for name in without:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def _sandboxes_of(item: Any) -> list[str]:
    return [name for name in _SANDBOXES if name in getattr(item, "fixturenames", ())]


@contextmanager
def _serving(
    request: pytest.FixtureRequest,
    thread: LoopThread,
    server: Callable[[Any, LoopThread], Any],
    defaults: Mapping[str, Any],
) -> Iterator[Any]:
    """Run a sandbox with the options of the test's marks, and fail the test for what it leaves unfinished."""
    name = request.fixturename or ""
    sandbox: Sandbox = _class_of(name)(**{**defaults, **_options_for(name, request.node)})
    thread.run(sandbox.start())
    served: SandboxServer[Any] = server(sandbox, thread)
    try:
        yield served
        left_over = served.left_over()
    finally:
        thread.run(sandbox.aclose())
    _fail_for(left_over, request)


def _class_of(name: str) -> type[Sandbox]:
    found: type[Sandbox] = getattr(import_module("vendor_sandboxes"), _SANDBOXES[name])
    return found


def _options_for(name: str, item: Any) -> dict[str, Any]:
    """Return the marked options that this sandbox has; one that no sandbox of the test has is a mistake."""
    given: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers(_MARK))):  # the closest last
        if marker.args:
            pytest.fail(
                f"@pytest.mark.{_MARK} takes options by name, such as fail_rate=1, not {marker.args[0]!r}.", pytrace=False
            )
        given.update(marker.kwargs)
    given.pop(_ALLOW, None)
    of_each = {each: _option_names(_class_of(each)) for each in {name, *_sandboxes_of(item)}}
    known = set().union(*of_each.values())
    for option in given:
        if option not in known:
            close = get_close_matches(option, {*known, _ALLOW}, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            pytest.fail(f"@pytest.mark.{_MARK}: no sandbox of this test has an option {option}.{hint}", pytrace=False)
    return {option: value for option, value in given.items() if option in of_each[name]}


def _option_names(sandbox: type[Sandbox]) -> set[str]:
    from attrs import fields

    return ({*inspect.signature(sandbox).parameters} - _NOT_OPTIONS) | {each.name for each in fields(sandbox.options_type)}


def _fail_for(left_over: Sequence[str], request: pytest.FixtureRequest) -> None:
    allowed = any(marker.kwargs.get(_ALLOW) for marker in request.node.iter_markers(_MARK))
    if left_over and not allowed and not request.node.stash.get(_FAILED, False):
        pytest.fail("This test left work unfinished:\n" + "\n".join(f"  {line}" for line in left_over), pytrace=False)
