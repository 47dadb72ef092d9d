"""Configuration of Sphinx."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rewards_core.version import VERSION

project = "rewards-async"
author = "The rewards-async developers"
project_copyright = "the rewards-async developers"
release = version = VERSION

extensions = [
    *("myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"),
    *("docs._ext.command_lines", "docs._ext.diagram", "docs._ext.public_api"),
]
exclude_patterns = ["_build"]
nitpicky = True
smartquotes = False  # two dashes are those of an option
nitpick_ignore = [
    ("py:class", name)
    for name in (
        # of the standard library and of aiohttp: their inventories are not here
        *("AbstractAsyncContextManager", "AbstractContextManager", "Decimal", "Path", "PathLike", "aiohttp.ClientSession"),
        *("collections.abc.AsyncIterable", "collections.abc.Collection"),
        *("collections.abc.Iterable", "collections.abc.Mapping", "collections.abc.Sequence", "datetime", "datetime.datetime"),
        *("decimal.Decimal", "os.PathLike"),
        # what signatures name and callers need not know
        *("A", "H", "S", "T", "webhooks.completions.A", "AmountAs", "BeforePage", "BodyProblem", "ClientOptions", "Collector"),
        *("Ending", "Environment", "LedgerLock", "LedgerPlace", "LoopThread", "MaySend", "PostgresLock", "ReadPath"),
        *("SandboxServer", "Via"),
    )
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_use_rtype = False

pygments_style = "a11y-light"
pygments_dark_style = "a11y-high-contrast-dark"

html_theme = "furo"
html_title = "rewards-async"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
