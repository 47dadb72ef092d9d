"""Public names of a package that are imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from importlib import import_module
from typing import Any


def lazy_names(package: str, names: Collection[str], modules: Iterable[str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which imports the public names from the modules, searched in order."""

    def find(name: str) -> Any:
        for module_name in modules if name in names else ():
            module = import_module(f"{package}.{module_name}")
            if hasattr(module, name):
                value = getattr(module, name)
                setattr(sys.modules[package], name, value)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    this = sys.modules[package]
    setattr(this, "__dir__", lambda: sorted({*vars(this), *names}))  # noqa: B010 - mypy takes a plain assignment for a method
    return find
