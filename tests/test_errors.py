"""Every error of the library: where it stands in the tree and in the reference, and that it survives a pickle and a copy."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import enkash_async
import original_async
import payouts
import rewards_core
import webhooks
from rewards_core.errors import OperationCancelled, RewardsError
from rewards_core.operations import OperationRef

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "errors.md").read_text("utf-8")
PACKAGES = (enkash_async, original_async, payouts, rewards_core, webhooks)
DOCUMENTED = ("rewards_core.errors", "webhooks.errors")
"""Modules that are public beside the packages."""
COLUMNS = 5


def shown() -> Iterator[tuple[str, str, str | None]]:
    """Yield each error of the page's tree with its parent and the further class that it is said to be."""
    tree = PAGE.split("```text\nRewardsError\n", 1)[1].split("```", 1)[0]
    parents = {0: "RewardsError"}
    for line in tree.splitlines():
        found = re.fullmatch(r"(?P<left>[│├└─ ]+)(?P<name>[A-Z]\w+)(?: \(also (?P<also>\w+)\))?", line)
        assert found, line
        depth = len(found["left"]) // 4
        parents[depth] = found["name"]
        yield found["name"], parents[depth - 1], found["also"]


def rows() -> Iterator[tuple[str, list[str]]]:
    """Yield the section and the cells of each row of the tables."""
    for section in PAGE.split("\n## ")[1:]:
        name, _, text = section.partition("\n")
        for line in text.splitlines():
            if line.startswith("| `"):
                yield name, [cell.strip() for cell in line.strip("|").split("|")]


def classes(cls: type[RewardsError] = RewardsError) -> Iterator[type[RewardsError]]:
    yield cls
    for each in cls.__subclasses__():
        yield from classes(each)


def attributes(cls: type[RewardsError]) -> set[str]:
    """Return the attributes that a class documents, or has as properties."""
    listed = re.findall(r"^    (\w+): ", (inspect.getdoc(cls) or "").partition("Attributes:\n")[2], re.MULTILINE)
    return set(listed) | {name for name, value in vars(cls).items() if isinstance(value, property)}


@pytest.fixture(scope="module")
def public() -> dict[str, type[RewardsError]]:
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    offered = {name for package in PACKAGES for name in package.__all__}
    return {cls.__name__: cls for cls in classes() if cls.__name__ in offered or cls.__module__ in DOCUMENTED}


def test_the_reference_shows_the_tree_as_it_is(public: dict[str, type[RewardsError]]) -> None:
    pairs = list(shown())
    assert sorted(["RewardsError", *(name for name, _, _ in pairs)]) == sorted(public)
    for name, parent, also in pairs:
        strangers = [base.__name__ for base in public[name].__bases__ if not issubclass(base, RewardsError)]
        assert public[parent] in public[name].__bases__, f"{name} directly under {parent}"
        assert strangers == ([also] if also else []), name


def test_the_reference_tells_of_every_error_where_to_import_it_and_its_attributes(
    public: dict[str, type[RewardsError]],
) -> None:
    told = list(rows())
    assert sorted(cells[0].strip("`") for _, cells in told) == sorted(public)
    for section, cells in told:
        name = cells[0].strip("`")
        assert len(cells) == COLUMNS, name
        assert getattr(importlib.import_module(section), name) is public[name]
        assert set(re.findall(r"`(\w+)`", cells[3])) == attributes(public[name]), name
        assert cells[1], f"{name}: raised when"
        assert cells[4], f"{name}: what to do"
        assert cells[2] or name in {"RewardsError", "VendorError"}, f"{name}: sent or paid"


def test_a_cancelled_operation_survives_pickle_and_copy() -> None:
    error = OperationCancelled("transfer 1 was cancelled", operation=OperationRef("default", "transfer", "1"), attempts=2)  # type: ignore[arg-type]
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error), copy.copy(error)):
        assert (type(twin), str(twin), vars(twin)) == (OperationCancelled, str(error), vars(error))
