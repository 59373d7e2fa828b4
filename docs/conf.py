"""The documentation site: `make docs` writes build/docs/index.html. Warnings, such as a link to nowhere, are errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docs.generate import write_pages

project = "wordweave"
copyright = "the wordweave authors"
extensions = ["myst_parser"]
exclude_patterns = ["LOG.md"]
html_theme = "furo"
html_title = "wordweave"
myst_heading_anchors = 4

write_pages()
