"""Describe what is public from its docstrings: `{api}` takes the names of one module, a line each."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from public_names import PACKAGES, by_last_part, defined_as, public_names
from sphinx.domains.python import PythonDomain

if TYPE_CHECKING:
    from docutils.nodes import Node
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.util.typing import ExtensionMetadata

_code = re.compile(r"(?<![`:\w])`([^`]+)`(?![`_])")
_url = re.compile(r"(?<![<`])(https://[^\s,;)]*[^\s,;).])")
_sentences: dict[str, list[str]] = {}
_parameters = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")


class Api(Directive):
    """Describe names of a module, one a line: `Name`, `Name()` if only others make one, `Name: some, members`."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[Node]:
        lines: list[str] = []
        for line in filter(None, map(str.strip, self.content)):
            shown, _, members = line.partition(": ")
            full = f"{self.arguments[0]}.{shown}"
            thing = public_names()[full.removesuffix("()")]
            lines += [f".. auto{_kind(thing)}:: {full}", *_options(thing, members), ""]
        lines = ["```{eval-rst}", *lines, "```"]  # a page is Markdown, and so is what it holds
        found = nodes.section()
        found.document = self.state.document
        self.state.nested_parse(StringList(lines, self.state_machine.get_source_and_line(self.lineno)[0]), 0, found)
        return found.children


def _kind(thing: Any) -> str:
    if not inspect.isclass(thing):
        return "function" if inspect.isroutine(thing) else "data"
    return "exception" if issubclass(thing, BaseException) else "class"


def _options(thing: Any, members: str) -> list[str]:
    if not inspect.isclass(thing):
        return []
    options = [f"   :members: {members}"]
    if not issubclass(thing, BaseException) and any(map(_is_hidden, thing.__mro__)):
        options.append("   :inherited-members: object")
    return options


def _is_hidden(base: type) -> bool:
    """Return whether a class is one of ours that is not public, so that its methods are shown where it is inherited."""
    name = f"{base.__module__}.{base.__qualname__}"
    return base.__module__.partition(".")[0] in PACKAGES and name not in defined_as()


def _rewritten(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Make names in single backticks links or code, and indented code a block of code."""
    del app, thing, options
    lines[:] = [_code.sub(lambda found: _role(found[1], name), line) for line in lines]
    in_section = False
    for number, line in enumerate(lines):
        if _parameters.match(line):
            in_section = True
        if number and not in_section and line.startswith("    ") and not lines[number - 1] and number > 1:
            before = number - 2
            if not lines[before].startswith("    "):
                lines[before] = re.sub(r":?$", "::", lines[before], count=1)
    if what in {"attribute", "data", "property"}:
        _sentences[name] = [*lines]


def _restored(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Undo that napoleon takes the words before a colon for a type."""
    del app, what, thing, options
    lines[:] = _sentences.pop(name, lines)


def _role(text: str, within: str) -> str:
    if (full := _public(text.removesuffix("()"), within)) is not None:
        return f":py:obj:`{text} <{full}>`"
    return f"``{text}``"


def _public(text: str, within: str) -> str | None:
    """Return the full name of what a docstring mentions, None if it is not public."""
    first, _, rest = text.partition(".")
    if text in public_names():
        return text
    if first in by_last_part() and (not rest or hasattr(public_names()[by_last_part()[first]], rest)):
        return by_last_part()[first] + (f".{rest}" if rest else "")
    owner = next((name for name in public_names() if within == name or within.startswith(f"{name}.")), None)
    if owner is not None and not rest and inspect.isfunction(getattr(public_names()[owner], first, None)) and first[0] != "_":
        return f"{owner}.{first}"
    return None


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> Any:
    """Resolve the name that an annotation has in the code to the public one."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    name = defined_as().get(target) or by_last_part().get(target)
    if name is None:
        return None
    domain = env.domains["py"]
    assert isinstance(domain, PythonDomain)
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("api", Api)
    app.connect("autodoc-process-docstring", _rewritten, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", _restored, priority=900)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True}
