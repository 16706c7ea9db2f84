"""What the site does with pages that are written for GitHub too: the README and others become pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent

#: Files of the repository that are pages of the site.
PAGES = {
    "README.md": "quick-start.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
#: Files that pages link to and that are not on the site: their links become text.
_ELSEWHERE = re.compile(r"\[([^\]]+)\]\((?:\.\./)*(?:tests/[^)]*|LICENSE)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that stand elsewhere in the repository."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("docs/", "")
        if source == "README.md":
            text = text.replace("# django_sse\n", "# Quick start\n", 1)
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Let links lead to the pages of the site."""
    # MkDocs knows links of Markdown only. On the site, each page is a folder.
    markdown = markdown.replace('="images/', '="../images/')
    markdown = _ELSEWHERE.sub(r"\1", markdown)
    for source, target in PAGES.items():
        pattern = rf"\]\((?:\.\./)*{re.escape(source)}(#[\w-]+)?\)"
        markdown = re.sub(pattern, rf"]({target}\1)", markdown)
    return markdown
