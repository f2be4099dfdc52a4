# SPDX-License-Identifier: MIT
"""Sphinx: the reference of the Python package, from the docstrings of the installed one (scripts/python_docs.sh)."""

import tenon

project = "tenon"
release = tenon.__version__
html_title = f"tenon {release}"
html_theme = "alabaster"
html_theme_options = {"description": "between vision encoders and language models", "fixed_sidebar": True}
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_mock_imports: list[str] = []
nitpicky = False
