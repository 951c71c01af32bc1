"""What mkdocs is told beyond mkdocs.yml: the README as home page, links of the notebook.

In the README links lead to files of the repository, as GitHub wants them, and in the
notebook to pages as they are written. On the site both must lead to pages as they are
shown. Those of the README are rewritten before mkdocs checks links; of the notebook mkdocs
sees only HTML, so what leads nowhere is found here.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
INCLUDE = '--8<-- "README.md"'
LINK = re.compile(r"\]\(docs/([^)#]*)")
HREF = re.compile(r'href="([\w./-]+\.(?:md|ipynb))(?=[#"])')
SHOWN_BY = {"examples/digits.py": "digits.md"}

logger = logging.getLogger("mkdocs.hooks")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page; of the home page that of the README, with links for the site."""
    if page.file.src_uri != "index.md":
        return markdown
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return markdown.replace(INCLUDE, LINK.sub(_to_page, readme))


def _to_page(link: re.Match[str]) -> str:
    """A folder of the repository is shown by its index, a script by the page around it."""
    target = link[1].rstrip("/")
    if (ROOT / "docs" / target).is_dir():
        target = f"{target}/index.md"
    return f"]({SHOWN_BY.get(target, target)}"


def on_page_content(html: str, page: Any, files: Any, **_: Any) -> str:
    """The HTML of a page; of a notebook with links to pages in place of files."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    folder = posixpath.dirname(page.file.src_uri)

    def to_url(href: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, href[1]))
        file = files.get_file_from_path(target)
        if file is None:
            logger.warning("%s: no page %s", page.file.src_uri, target)
            return href[0]
        return f'href="{file.url_relative_to(page.file)}'

    return HREF.sub(to_url, html)
