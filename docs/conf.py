"""Configuration of Sphinx."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from rewards_core.version import VERSION  # noqa: E402

project = "rewards-async"
author = "The rewards-async developers"
project_copyright = "the rewards-async developers"
release = version = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "public_api"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [  # of the standard library and of other packages: their inventories are not here
    ("py:.*", r"(aiohttp|asyncio|collections|contextlib|datetime|decimal|logging|os|pathlib|ssl|typing|web)\..*"),
    ("py:.*", r"Any|Awaitable|Callable|Decimal|Literal|Path|Self|T|collector"),
    ("py:.*", r".*[\[\]'.]+$"),
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "rewards-async"
html_static_path = ["_static"]
