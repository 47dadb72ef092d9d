"""Every error of the library: where it stands in the tree, and that it survives a queue, a process pool and a copy."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import original_async
import payouts
import rewards_core
import webhooks
from rewards_core.errors import OperationCancelled, RewardsError
from rewards_core.operations import OperationRef

PAGE = Path(__file__).parents[1] / "docs" / "outcomes.md"


def shown() -> Iterator[tuple[str, str]]:
    """Yield each error of the page's tree with its parent."""
    tree = PAGE.read_text("utf-8").split("```text\nRewardsError\n", 1)[1].split("```", 1)[0]
    parents = {0: "RewardsError"}
    for line in tree.splitlines():
        depth = (re.search(r"[A-Z]", line).start()) // 4  # type: ignore[union-attr]  # each line names an error
        names = re.split(r"\s{3,}(?=[a-z.])", line.strip("│├└─ "))[0]
        for name in re.findall(r"[A-Z][a-z]+[A-Z]?\w*", re.sub(r"\([^)]*\)", "", names)):
            parents[depth] = name
            yield name, parents[depth - 1]


def classes(cls: type[RewardsError] = RewardsError) -> Iterator[type[RewardsError]]:
    yield cls
    for each in cls.__subclasses__():
        yield from classes(each)


@pytest.fixture(scope="module")
def errors() -> dict[str, type[RewardsError]]:
    for package in (original_async, payouts, rewards_core, webhooks):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return {cls.__name__: cls for cls in classes()}


def test_the_page_on_outcomes_shows_the_tree_as_it_is(errors: dict[str, type[RewardsError]]) -> None:
    pairs = list(shown())
    assert len(pairs) >= 20
    for name, parent in pairs:
        assert issubclass(errors[name], errors[parent]), f"{name} under {parent}"
        assert errors[parent] in errors[name].__bases__, f"{name} directly under {parent}"


def test_a_cancelled_operation_survives_pickle_and_copy() -> None:
    error = OperationCancelled("transfer 1 was cancelled", operation=OperationRef("default", "transfer", "1"), attempts=2)  # type: ignore[arg-type]
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error), copy.copy(error)):
        assert (type(twin), str(twin), vars(twin)) == (OperationCancelled, str(error), vars(error))
