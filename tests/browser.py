"""A real browser without a window: what it makes of a page, and what the page asks of others."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EXECUTABLE = next(filter(None, map(shutil.which, _NAMES)), None)

needs_browser = pytest.mark.skipif(
    EXECUTABLE is None, reason="needs a browser: apt-get install --no-install-recommends chromium"
)

_FLAGS = (
    *("--headless=new", "--disable-gpu", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr"),
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=5000"),
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
)
_DARK = "--blink-settings=preferredColorScheme=0"

# The page runs no script, so one beside it looks into it. A frame is a window to the page: its
# width is what the page's media queries see.
_LOOK = """<!DOCTYPE html><html><body>%(frames)s<pre></pre><script>
onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, root = page.documentElement;
    const elements = [...page.querySelectorAll(%(selector)s)].map((element) => {
      const box = element.getBoundingClientRect();
      return {name: element.localName, classes: [...element.classList], text: element.textContent,
              left: box.left, right: box.right, width: box.width, height: box.height,
              color: frame.contentWindow.getComputedStyle(element).color};
    });
    return {width: root.clientWidth, needed: root.scrollWidth, title: page.title,
            background: frame.contentWindow.getComputedStyle(page.body).backgroundColor, elements};
  });
  document.querySelector("pre").textContent = JSON.stringify(seen);
};
</script></body></html>"""


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page.

    Attributes:
        windows: for each width: ``width`` and the ``needed`` one in pixels, ``title``,
            ``background``, and the ``elements`` asked for with their boxes, texts and colours.
        console: what was written to the console: errors, and what the page's policy forbade.
        requests: the paths that were asked for.
        dark: whether a dark page was asked for.
    """

    windows: list[dict[str, Any]]
    console: list[str]
    requests: list[str]
    dark: bool


def look(page: Path, selector: str, widths: Sequence[int], *, dark: bool = False) -> Seen:
    """Open a page in windows of some widths, and see where its elements lie."""
    frames = "".join(
        f'<iframe src="/page" width="{each}" height="800"></iframe>' for each in widths
    )
    beside = _LOOK % {"frames": frames, "selector": json.dumps(selector)}
    answers = {"/": beside.encode(), "/page": page.read_bytes()}
    with _served(answers) as (address, requests):
        done = _run(*([_DARK] if dark else []), "--dump-dom", address)
    found = re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)
    assert found is not None, done.stdout + done.stderr
    console = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]
    wanted = [path for path in requests if path != "/favicon.ico"]  # the browser's own idea
    return Seen(json.loads(html.unescape(found[1])), console, wanted, dark)


def screenshot(page: Path, image: Path, width: int, height: int, *, dark: bool = False) -> None:
    """Write what a window of so many pixels shows of a page, as PNG."""
    theme = [_DARK] if dark else []
    _run(*theme, f"--window-size={width},{height}", f"--screenshot={image}", page.as_uri())


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert EXECUTABLE is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        return subprocess.run(
            [EXECUTABLE, *_FLAGS, f"--user-data-dir={profile}", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )


@contextmanager
def _served(answers: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server of these paths: its address, and the paths that it is asked for."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            body = answers.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", requests
        finally:
            server.shutdown()
            thread.join()
