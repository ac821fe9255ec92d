"""Making Great Expectations' Data Docs readable without a network.

Its pages take their style, their scripts and their logo from the web, and the table of its index is filled by a
script. After this the pages have one small style of their own, no script, and refer to nothing outside their folder.
"""

import re
from html import escape
from pathlib import Path

from models.files import write_text

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fbfaf7; color: #1f2933; font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
.container-fluid { padding: 0 24px; } .row { display: flex; flex-wrap: wrap; gap: 24px; }
.col-md-10, .col-12 { flex: 1 1 640px; min-width: 0; } .col-md-2 { flex: 0 0 230px; } .col-6 { flex: 1 1 320px; }
nav.navbar { padding: 14px 24px; height: auto !important; }
nav.navbar nav { display: flex; gap: 18px; }
.breadcrumb { display: flex; gap: 8px; } nav a { word-break: normal !important; }
nav.navbar a { font-weight: 700; color: #b98a2f; text-decoration: none; }
.ge-navigation-sidebar-container { padding: 8px 0; } a { color: #0072b2; }
ol, ul { list-style: none; margin: 0; padding: 0; } .breadcrumb { color: #5c6773; font-size: .9rem; }
h1, h2, h3, h4, h5, h6 { margin: .4em 0; line-height: 1.25; } h4, h5 { font-size: 1.15rem; }
.card, .alert, .ge-section { background: #fff; border: 1px solid #e2ded4; border-radius: 10px; padding: 12px 18px; }
.card:not(:has(nav)) { display: none; } .ge-section { margin: 0 0 16px; } .ge-section .row { display: block; }
.alert { background: #f3f0e8; margin: 8px 0; }
table { border-collapse: collapse; width: 100%; margin: 8px 0; }
th, td { text-align: left; vertical-align: top; padding: 6px 10px; border-bottom: 1px solid #e2ded4; }
th { color: #5c6773; font-size: .85rem; } td { overflow-wrap: anywhere; }
.badge { display: inline-block; padding: 0 8px; border-radius: 6px; background: #f3f0e8; }
.text-success { color: #00694e; } .text-danger { color: #a83c00; }
i.fa-check-circle::before { content: "\\2713"; } i.fa-times::before { content: "\\2717"; }
i.fa-exclamation-triangle::before { content: "!"; } i[class*="fa-"] { font-style: normal; font-weight: 700; }
"""
_SCRIPT = re.compile(r"<script\b.*?</script\s*>", re.DOTALL | re.IGNORECASE)
_STYLES = re.compile(r"<style\b.*?</style\s*>", re.DOTALL | re.IGNORECASE)
_HOST = r"\s*(?:https?:)?//"
_OUTSIDE = rf"""["']?{_HOST}"""
_LINK = re.compile(rf"<link\b[^>]*\bhref\s*=\s*{_OUTSIDE}[^>]*>", re.IGNORECASE)
_LOGO = re.compile(rf"<(?:img|iframe|source)\b[^>]*\bsrc\s*=\s*{_OUTSIDE}[^>]*>", re.IGNORECASE)
_ANCHOR = re.compile(rf"""(<a\b[^>]*?)\shref\s*=\s*(?:"{_HOST}[^"]*"|'{_HOST}[^']*')""", re.IGNORECASE)
_HANDLER = re.compile(r"""\son\w+\s*=\s*("[^"]*"|'[^']*')""", re.IGNORECASE)
# What only does something by script: filters, walkthroughs, buttons.
_BUTTON = re.compile(r"<button\b.*?</button\s*>", re.DOTALL | re.IGNORECASE)
_FILTER = re.compile(
    r'<div class="btn-group btn-group-toggle".*?</div>|<p class="card-text[^>]*>\s*Validation Filter:\s*</p>|'
    r"<strong>Actions</strong>",
    re.DOTALL,
)


def make_offline(folder: Path) -> int:
    """Rewrite every page below `folder` so that it needs no network, and the index as a plain list; return how many."""
    pages = sorted(folder.rglob("*.html"))
    for page in pages:
        if page.name != "index.html":
            write_text(page, rewrite_page(page.read_text(encoding="utf-8")))
    others = [page.relative_to(folder) for page in pages if page.name != "index.html"]
    write_text(folder / "index.html", _index(others))
    return len(pages)


def rewrite_page(html: str) -> str:
    """Return a page without scripts and references to other hosts, in a style of its own."""
    for pattern in (_SCRIPT, _STYLES, _LINK, _BUTTON, _FILTER, _HANDLER):
        html = pattern.sub("", html)
    html = _ANCHOR.sub(r"\1", _LOGO.sub("herdlight", html))
    return html.replace("</head>", f"<style>{_STYLE}</style>\n</head>", 1)


def _index(pages: list[Path]) -> str:
    """Return the index: a list of results and one of suites, told by the first folder of their paths."""
    parts = []
    for title, root in (("What was found", "validations"), ("What is expected", "expectations")):
        links = (
            f'<li><a href="{escape(page.as_posix())}">{escape(page.parts[1].removesuffix(".html"))}</a></li>'
            for page in pages
            if page.parts[0] == root and len(page.parts) > 1
        )
        parts.append(f'<div class="ge-section"><h4>{title}</h4><ul>{"".join(links)}</ul></div>')
    head = f'<meta charset="utf-8"><title>herdlight: data checks</title><style>{_STYLE}</style>'
    top = '<nav class="navbar"><a href="index.html">herdlight</a></nav>'
    body = f'{top}<div class="container-fluid">{"".join(parts)}</div>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
