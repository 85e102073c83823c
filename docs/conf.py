"""Settings of the documentation site, which ``make docs`` builds into build/docs from files alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The extensions beside this file; and benchmarks/, whose generator makes the results files that pages read.
sys.path[:0] = [str(HERE), str(HERE.parent)]

from site_extension import example  # noqa: E402

import rethink_heads  # noqa: E402

project = "rethink-heads"
author = "The rethink-heads developers"
copyright = "The rethink-heads developers, Apache-2.0"
version = release = rethink_heads.__version__

extensions = [
    "myst_nb",
    "sphinx_gallery.gen_gallery",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "site_extension.commands",
    "site_extension.drawings",
    "site_extension.links",
]
# sphinx-gallery writes a notebook beside each of its pages.
exclude_patterns = ["gallery/**/*.ipynb", "gallery/*.ipynb", "paper", "site_extension"]

# Pages. "mermaid" is a directive of site_extension.drawings, so that a code host draws it too.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

# Cells run in the folder of made-up results files (site_extension/example.py); one that fails, fails the build.
nb_execution_mode = "force"
# Committed as they were run on the demo's detector.
nb_execution_excludepatterns = ["notebooks/*.ipynb"]
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_show_tb = True
nb_merge_streams = True
# What a doctor says of a file; commands show it.
nb_output_stderr = "remove"
os.environ.update(example.environment())

sphinx_gallery_conf = {
    "examples_dirs": ["paper"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"\.py$",
    "image_scrapers": ("site_extension.gallery.scrape",),
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "plot_gallery": "True",
    # What they draw depends on tables, too.
    "run_stale_examples": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}

# API. Types of other packages have no page here, and their inventories lie beyond a network.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!rethink_heads\b).*")]

html_theme = "furo"
html_title = "rethink-heads"
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
