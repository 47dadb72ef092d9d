"""The file of `--config`: TOML with a table per command, and above the tables what all commands share."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rewards_core.cli.option_specs import OptionSpec
from rewards_core.cli.program import Program
from rewards_core.environment import listed
from rewards_core.text import one_line
from rewards_core.validation import shown

_MAX_BYTES = 1 << 20


class ConfigFile:
    """Read a file of options.

    Args:
        path: The file.
        named_by: `--config`, or the variable that names the file; for messages.

    Raises:
        ValueError: it cannot be read, or is not TOML.
    """

    def __init__(self, path: Path, named_by: str) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
            if len(raw) > _MAX_BYTES:
                raise ValueError("it is larger than 1 MiB")
            self._document = tomllib.loads(raw.decode())
        except OSError as error:
            raise ValueError(f"{named_by}: {path} cannot be read: {error.strerror or error}. Name another file.") from None
        except RecursionError:
            raise ValueError(f"{named_by}: {path} is nested too deeply. Write one table for each command.") from None
        except ValueError as error:
            why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else one_line(str(error))
            raise ValueError(f"{named_by}: {path} is not a TOML file: {why}.") from None

    def values(
        self, program: Program, words: Sequence[str], own: Mapping[str, OptionSpec], group: Collection[str]
    ) -> Iterator[tuple[str, Any, str]]:
        """Yield option, value and origin of all that the file sets for a command; the value that wins comes last.

        The arguments are those of `presets`.

        Raises:
            ValueError: a table or a key is unknown, or a value has the wrong type; the message says where, suggests the nearest
                name, and does not show the value.
        """
        table: Mapping[str, Any] = self._document
        for depth in range(len(words) + 1):
            here = words[:depth]
            inner = [*program.commands] if depth == 0 else [*group] if depth < len(words) else []
            for key, value in table.items():
                if isinstance(value, dict):
                    self._check_table(here, key, inner, own)
                elif key in own and not (depth == 0 and key in program.ambiguous):
                    yield key, self._read(here, key, value, own[key]), self._origin(here, key)
                else:
                    self._check_key(program, words, here, key, own)
            table = table.get(words[depth], {}) if depth < len(words) else {}
            if not isinstance(table, dict):  # an option may have a command's name
                table = {}

    def text(self, words: Sequence[str], name: str) -> str | None:
        """Return the text of an option from the innermost table of a command that sets it; None if no table does."""
        found = None
        table: Any = self._document
        for word in (*words, ""):
            if not isinstance(table, dict):
                break
            value = table.get(name)
            found = value if isinstance(value, str) else found
            table = table.get(word)
        return found

    def _read(self, here: Sequence[str], key: str, value: Any, spec: OptionSpec) -> Any:
        try:
            return spec.from_file(value)
        except ValueError as error:
            raise ValueError(f"{self._place(here)}{key}: {error}") from None

    def _check_table(self, here: Sequence[str], key: str, inner: Collection[str], own: Mapping[str, OptionSpec]) -> None:
        if key in inner:
            return
        if key in own:
            raise ValueError(f"{self._place(here)}{key}: it is an option, not a table. Write {key} = VALUE.")
        name = ".".join((*here, key))
        there = f"There are {listed([*inner])}." if inner else "A command's table holds options only."
        advice = _nearest(key, inner) or there
        raise ValueError(f"{self._path}: there is no command for the table {shown(name)}. {advice}")

    def _check_key(
        self, program: Program, words: Sequence[str], here: Sequence[str], key: str, own: Mapping[str, OptionSpec]
    ) -> None:
        """Refuse a key that is no option of any command under this table; other commands are imported only here."""
        place = self._place(here)
        opposite = next((spec.name for spec in own.values() if key == spec.negative), None)
        if opposite is not None:
            raise ValueError(f"{place}{key}: write {opposite} = false.")
        below = {command: specs for command, specs in program.options() if command.split()[: len(here)] == [*here]}
        takers = [command for command, specs in below.items() if key in specs]
        if takers and not here and key in program.ambiguous:
            tables = listed([f"[{command.replace(' ', '.')}]" for command in takers])
            raise ValueError(f"{place}{key}: it means something else in each of {tables}. Write it into one of these tables.")
        if not takers:
            lacks = f"{' '.join(words)} has no such option" if [*here] == [*words] else "no command has such an option"
            options = {name for specs in below.values() for name in specs}
            raise ValueError(f"{place}{shown(key)}: {lacks}. {_nearest(key, options) or 'See --help.'}")

    def _origin(self, here: Sequence[str], key: str) -> str:
        table = f" in [{'.'.join(here)}]" if here else ""
        return f"'{key}'{table} of {self._path}"

    def _place(self, here: Sequence[str]) -> str:
        return f"{self._path}: [{'.'.join(here)}] " if here else f"{self._path}: "


def _nearest(word: str, known: Collection[str]) -> str:
    found = get_close_matches(word.replace("_", "-"), known, n=1, cutoff=0.5)
    return f"Did you mean {found[0]}?" if found else ""
