"""A command line whose commands are imported when they are called: its help, and each command, costs only itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import in_json, told_as_json
from rewards_core.cli.option_kinds import Kind, kinds_of
from rewards_core.cli.output import fail
from rewards_core.cli.presets import Preset, preset_text, presets
from rewards_core.cli.program import Program
from rewards_core.cli.wording import Wording, in_options, worded

_CONFIG = f"{__name__}:config"
_PRESETS = f"{__name__}:presets"
_FORMAT = "log-format"
_UsageError: Any = typer.BadParameter.__base__
_within_a_paragraph = re.compile(r"(?<=\S)\n(?=\S)").sub


def command_line(program: Program, *, help: str, epilog: str) -> typer.Typer:  # noqa: A002
    """Return the Typer application of a command line.

    Args:
        program: Its name and its commands.
        help: What it is for.
        epilog: What stands below its help.
    """
    app = typer.Typer(
        name=program.name,
        cls=_Group,
        help=help,
        epilog=f"{epilog}\n\n{_rule(program)}",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "obj": program},
    )

    @app.callback()
    def begin(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version and end.", is_eager=True, callback=_show_version)
        ] = False,
    ) -> None:
        """Hold the option that stands before every command."""

    for name, (_, line) in program.commands.items():
        app.command(name, cls=_later(program, name), help=line)(_nothing)
    return app


def _rule(program: Program) -> str:
    return (
        f"Every option can also be set by a variable, such as {program.variable('json')} for --json, or in the TOML file of "
        "--config: by its name without the dashes, for all commands above the first table, or in the table of one command. What "
        "is typed wins over variables, and these over the file."
    )


def _show_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        typer.echo(f"{context.find_root().info_name} {metadata.version('rewards-async')}")
        raise typer.Exit


def _take_config(context: typer.Context, config: Path | None) -> None:
    """Keep the file that was typed; before a command reads its options, set those that were set beforehand."""
    if context.resilient_parsing:
        return
    if config is not None:
        context.meta[_CONFIG] = config
    if isinstance(context.command, _Command):
        _preset(context)


def _preset(context: typer.Context) -> None:
    parent: Any = context.parent
    group = [] if parent.parent is None else [*getattr(parent.command, "commands", ())]
    words = _words(context.info_name, parent)
    try:
        found = presets(context.obj, words, kinds_of(context.command), group, context.meta.get(_CONFIG))
    except ValueError as problem:
        fail(str(problem), Exit.USAGE)
    context.default_map = {preset.parameter: preset.value for preset in found}
    context.meta[_PRESETS] = found


def _words(name: str | None, parent: Any) -> list[str]:
    """Return the words of the command or the group of this name, such as `events list`; none of the program itself."""
    return [] if parent is None else [*_words(parent.info_name, parent.parent), str(name)]


@contextmanager
def _usage_errors_told(
    program: Program, words: Sequence[str], typed: Sequence[str], parent: Any, own: Mapping[str, Kind] | None = None
) -> Iterator[None]:
    """Tell usage errors inside as JSON, if what is typed or set beforehand asks for that and the command, if known, can."""
    if own is None or _FORMAT in own:
        config = _typed(typed, "config") or (parent and parent.meta.get(_CONFIG))
        form = _typed(typed, _FORMAT) or preset_text(program, words, _FORMAT, config)
    else:
        form = None
    with in_json(form == "json"):
        try:
            yield
        except _UsageError as problem:
            told = problem.format_message()  # empty where the help has been shown instead
            if told and told_as_json(told, "error"):
                raise typer.Exit(Exit.USAGE) from None
            raise


def _typed(words: Sequence[str], name: str) -> str | None:
    """Return the last value of an option among words that have not been parsed."""
    found = None
    for word, following in zip_longest(words, words[1:]):
        if word == "--":
            break
        if word == f"--{name}":
            found = following
        elif word.startswith(f"--{name}="):
            found = word.partition("=")[2]
    return found


def _with_config(
    config: Annotated[
        Path | None,
        typer.Option("--config", is_eager=True, expose_value=False, callback=_take_config, metavar="FILE"),
    ] = None,
) -> None:
    """Hold the option that every command and every group has."""


@cache
def _config_option(program: str) -> Any:
    holder = typer.Typer(add_completion=False)
    holder.command()(_with_config)
    option: Any = get_command(holder).params[0]
    option.help = f"TOML file of options; variables set them too: {program} -h says which."
    return option


def _params_with_config(params: list[Any], context: Any) -> list[Any]:
    *own, shows_help = params
    return [*own, _config_option(context.find_root().info_name), shows_help]


class _Command(TyperCommand):
    """A command whose options may be set beforehand."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _params_with_config(super().get_params(ctx), ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help with paragraphs as wide as the screen; typer breaks all but the first where the docstring does."""
        self.help = _within_a_paragraph(" ", inspect.cleandoc(self.help or ""))
        super().format_help(ctx, formatter)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with _usage_errors_told(parent.obj, _words(info_name, parent), [*args], parent, kinds_of(self)):
            try:
                return super().make_context(info_name, args, parent, **extra)
            except typer.BadParameter as problem:
                for preset in _in_force(problem.ctx):
                    if problem.param is not None and problem.param.name == preset.parameter:
                        problem.param_hint = preset.origin
                raise

    def invoke(self, ctx: Any) -> Any:
        options = {kind.parameter: f"--{name}" for name, kind in kinds_of(self).items()}
        with worded(Wording(options=options, origins={each.option: each.origin for each in _in_force(ctx)})):
            try:
                return super().invoke(ctx)
            except typer.BadParameter as problem:
                problem.message = in_options(problem.message)
                if told_as_json(problem.format_message(), "error"):
                    raise typer.Exit(Exit.USAGE) from None
                raise


def _in_force(context: Any) -> list[Preset]:
    """Return what was set beforehand for the command at hand, and was not typed."""
    found: list[Preset] = context.meta.get(_PRESETS, [])
    return [each for each in found if getattr(context.get_parameter_source(each.parameter), "name", "") == "DEFAULT_MAP"]


class _Group(TyperGroup):
    """A group of commands, before which the file of options may be named too."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _params_with_config(super().get_params(ctx), ctx)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        program = self.context_settings["obj"] if parent is None else parent.obj
        with _usage_errors_told(program, _words(info_name, parent), [*args], parent):
            return super().make_context(info_name, args, parent, **extra)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        with _usage_errors_told(ctx.obj, _words(ctx.info_name, ctx.parent), args, ctx):
            return super().resolve_command(ctx, args)


def _later(program: Program, name: str) -> type[TyperCommand]:
    class Later(TyperCommand):
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            return program.load(name, _Command, _Group).make_context(info_name, args, parent, **extra)

    return Later


def _nothing() -> None:
    """Stand for a command that has not been imported."""
