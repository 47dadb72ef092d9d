"""Public names of a package that are imported when they are first asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from importlib import import_module
from typing import Any


def late_names(package: str, names: Collection[str], modules: Iterable[str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package which imports its public names from its modules when they are first asked for.

    Args:
        package: The package's name.
        names: Its public names.
        modules: Those of its modules that have them, in the order in which they are searched.
    """

    def find(name: str) -> Any:
        for module in modules if name in names else ():
            place = import_module(f"{package}.{module}")
            if hasattr(place, name):
                value = getattr(place, name)
                setattr(sys.modules[package], name, value)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    module = sys.modules[package]
    setattr(module, "__dir__", lambda: sorted({*vars(module), *names}))  # noqa: B010 - a module's own is no method
    return find
