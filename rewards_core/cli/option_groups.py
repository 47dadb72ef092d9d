"""Options that several commands share, written once as the fields of an attrs class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, get_type_hints

from attrs import NOTHING, fields, fields_dict, has

T = TypeVar("T")


def with_option_groups(command: Callable[..., T]) -> Callable[..., T]:
    """Decorate a command some of whose parameters are groups: attrs classes, each field of which is an option of the command."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, given in inspect.signature(command).parameters.items():
        if not has(hints[name]):
            parameters.append(given.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))
            continue
        group = groups[name] = hints[name]
        own = fields_dict(group)
        for option, hint in get_type_hints(group, include_extras=True).items():  # a subclass overrides in place
            default = inspect.Parameter.empty if own[option].default is NOTHING else own[option].default
            parameters.append(inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))

    @wraps(command)
    def call(**values: Any) -> T:
        made = {name: group(**{each.name: values.pop(each.name) for each in fields(group)}) for name, group in groups.items()}
        return command(**made, **values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what `inspect.signature` returns
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call
