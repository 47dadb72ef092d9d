"""Describe what is public from its docstrings.

A block of `{api}` names things of one module, one a line: `Name`, `Name()` if only others make one, `Name: some, members`, or
`Name: -` for no member.
"""

from __future__ import annotations

import inspect
import re
from enum import Enum
from types import FunctionType
from typing import TYPE_CHECKING, Any

import attrs
from docutils import nodes
from sphinx.domains.python import PythonDomain

from docs._ext.public_names import PACKAGES, by_last_part, defined_as, public_names

if TYPE_CHECKING:
    from docutils.nodes import TextElement
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.util.typing import ExtensionMetadata

_block = re.compile(r"^```\{api\} (?P<module>[\w.]+)\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
_code = re.compile(r"(?<![`:\w])`([^`]+)`(?![`_])")
_url = re.compile(r"(?<![<`])(https://[^\s,;)]*[^\s,;).])")
_sentences: dict[str, list[str]] = {}
_long = re.compile(r"~([\w.]+\.(\w+))")
_WRITTEN = {  # how signatures print, and how a person writes it
    re.compile(r"<built-in function time>"): "time.time",
    re.compile(r"<built-in method random of Random object>"): "random.random",
    re.compile(r"functools\.partial\(<built-in function \w+>, \d+\)"): "...",
    re.compile(r"<function (\w+)>"): r"\1",
    re.compile(r"(?<![.\w])Session\b"): "aiohttp.ClientSession",
}
_parameters = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")


def _fill(app: Sphinx, docname: str, content: list[str]) -> None:
    del app, docname
    content[0] = _block.sub(lambda found: _described(found["module"], found["lines"].splitlines()), content[0])


def _described(module: str, names: list[str]) -> str:
    lines = ["```{eval-rst}"]
    for name in names:
        shown, _, members = name.partition(": ")
        full = f"{module}.{shown}"
        thing = public_names()[full.removesuffix("()")]
        lines += [f".. auto{_kind(thing)}:: {full}", *_options(thing, members), ""]
    return "\n".join([*lines, "```"])


def _kind(thing: Any) -> str:
    if not inspect.isclass(thing):
        return "function" if inspect.isroutine(thing) else "data"
    return "exception" if issubclass(thing, BaseException) else "class"


def _options(thing: Any, members: str) -> list[str]:
    if not inspect.isclass(thing) or members == "-":
        return []
    options = [f"   :members: {members}"]
    if issubclass(thing, Enum):
        options.append("   :undoc-members:")
    elif not members and not issubclass(thing, BaseException) and any(map(_is_hidden, thing.__mro__)):
        options.append("   :inherited-members: object")
    return options


def _is_hidden(base: type) -> bool:
    """Return whether a class is one of ours that is not public, so that its methods are shown where it is inherited."""
    return base.__module__.partition(".")[0] in PACKAGES and _name_of(base) not in defined_as()


def _name_of(thing: type) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _rewritten(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Make names in single backticks links or code, and indented code a block of code."""
    del app, options
    lines[:] = [_code.sub(lambda found: _role(found[1], name), line) for line in lines]
    in_section = False
    for number, line in enumerate(lines):
        if _parameters.match(line):
            in_section = True
        if number and not in_section and line.startswith("    ") and not lines[number - 1] and number > 1:
            before = number - 2
            if not lines[before].startswith("    "):
                lines[before] = re.sub(r"(\.?):?$", lambda found: f"{found[1]} ::" if found[1] else "::", lines[before], count=1)
    if what == "data" and inspect.cleandoc(type(thing).__doc__ or "").startswith(lines[0]):
        lines.clear()  # of a plain value Sphinx shows what its type says
    if what in {"attribute", "data", "property"}:
        _sentences[name] = [*lines]


def _signature(app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, result: str | None) -> Any:
    """Write types without their modules and defaults as the code does; what nobody calls has no arguments."""
    del app, what, name, options
    if signature is None:
        return None
    made = inspect.unwrap(thing)
    if result and made is not thing and (inspect.isasyncgenfunction(made) or inspect.isgeneratorfunction(made)):
        result = re.sub(r"^~?[\w.]*?(Async)?Iterator\[", r"Abstract\1ContextManager[", result)  # used inside `with`
    if inspect.isclass(thing) and (issubclass(thing, Enum) or signature == "(*args, **kwargs)" or _made_as_its_base(thing)):
        return "", None
    if inspect.isclass(thing) and attrs.has(thing):
        for factory in (getattr(each.default, "factory", None) for each in attrs.fields(thing) if each.init):
            signature = signature if factory is None else signature.replace("NOTHING", repr(factory()), 1)
    for printed, written in _WRITTEN.items():
        signature = re.sub(printed, written, signature)
    return _long.sub(_short, signature), result and _long.sub(_short, result)


def _made_as_its_base(thing: type) -> bool:
    """Return whether an error is made as the error above it, which shows how."""
    return issubclass(thing, BaseException) and "__init__" not in vars(thing)


def _short(name: re.Match[str]) -> str:
    """Return the last part of a name, unless another thing is public under it."""
    return name[0] if by_last_part().get(name[2]) != defined_as().get(name[1]) else name[2]


def _restored(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Undo that napoleon takes the words before a colon for a type."""
    del app, what, thing, options
    lines[:] = _sentences.pop(name, [re.sub(r"^:(returns|Yields): \*(.+?)\* -- ", r":\1: \2: ", line) for line in lines])


def _punctuate(app: Sphinx, doctree: nodes.document) -> None:
    """Write a colon between an argument and what it means, where Sphinx writes two dashes."""
    del app
    for text in [*doctree.findall(nodes.Text)]:
        if text == " -- ":
            text.parent.replace(text, nodes.Text(": "))


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
    member = getattr(public_names()[owner], first, None) if owner is not None and inspect.isclass(public_names()[owner]) else None
    if first[:1] != "_" and not rest and isinstance(member, (FunctionType, property)):
        return f"{owner}.{first}"
    return None


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: TextElement) -> Any:
    """Resolve the name that an annotation has in the code to the public one."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    owner, _, member = target.rpartition(".")
    above = getattr(public_names().get(owner), "__mro__", ())  # a method is described where it is declared
    names = [
        defined_as().get(target) or by_last_part().get(target),
        *(f"{defined_as().get(_name_of(base))}.{member}" for base in above),
    ]
    domain = env.domains["py"]
    assert isinstance(domain, PythonDomain)
    found = (domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content) for name in names if name)
    return next(filter(None, found), None)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _rewritten, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", _restored, priority=900)
    app.connect("autodoc-process-signature", _signature)
    app.connect("doctree-read", _punctuate)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True}
