"""Configuration of Sphinx."""

from __future__ import annotations

from rewards_core.version import VERSION

project = "rewards-async"
author = "The rewards-async developers"
project_copyright = "the rewards-async developers"
release = version = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = "rewards-async"
html_static_path = ["_static"]
