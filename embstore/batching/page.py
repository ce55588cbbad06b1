"""The frame of every page that is written: it loads nothing, runs nothing, and fits any screen."""

from __future__ import annotations

import base64
import hashlib
import os
from html import escape

from embstore.files import written_whole

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2429; --soft: #59636b; --line: #8884; --card: #f6f7f8;
        --paper: #fff; --first: #0072b2; --second: #d55e00; --fill: #0072b222; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9eb; --soft: #a3adb5; --card: #1e242a; --paper: #14181c;
          --first: #56b4e9; --second: #e69f00; --fill: #56b4e92b; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.2rem; margin: 0 0 .5rem; }
section { margin: 2.5rem 0; }
img { display: block; width: 100%; max-width: 40rem; margin: 1rem 0; background: white;
      border-radius: 6px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
tr > :first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 600; font-size: .85rem; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 1rem; }
dd { margin: 0; }
"""


def write_page(path: str | os.PathLike[str], title: str, body: str, style: str = "") -> None:
    """Write a page that needs nothing else: whole, or not at all.

    Browsers are told to load nothing, to run no script and to heed no style but the page's own:
    so even a name that was not escaped could do no harm.

    Args:
        path: the file.
        title: what the window is called, as text.
        body: what is shown, as HTML in which everything is escaped. It has no ``style`` attributes.
        style: CSS besides what all pages have.

    Raises:
        OSError: if the file cannot be written; what was there before is untouched.
    """
    css = _STYLE + style
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:"
    document = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="{policy}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{css}</style>
</head>
<body>
{body}
</body>
</html>
"""
    with written_whole(path) as file:
        file.write(document.encode())
