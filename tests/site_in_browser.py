"""Every page of the built site in Chromium, with no network: `make docs` runs it.

A page fails if it asks for anything outside of the site, says an error, leaves a formula or a diagram
undrawn, or is wider than a telephone.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from end_to_end.browser import chromium_page
from playwright.sync_api import TimeoutError

SITE = Path(__file__).parents[1] / "build" / "docs"
UNDRAWN = """() => [
    ...[...document.querySelectorAll(".arithmatex")].filter(one => !one.querySelector(".katex")),
    ...document.querySelectorAll(".katex-error, pre.mermaid"),
].map(one => one.textContent)"""
TOO_WIDE = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"


class Quiet(SimpleHTTPRequestHandler):
    """Serves the site without a word."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> int:
    """Number of pages that have faults."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    faulty = 0
    names = sorted(str(path.parent.relative_to(SITE)) for path in SITE.rglob("index.html"))
    with chromium_page(served_by=address, own=True, viewport={"width": 390, "height": 844}) as page:
        for name in names:
            page.goto(f"{address}/{name}/" if name != "." else f"{address}/")
            page.wait_for_load_state("load")
            try:
                page.wait_for_function(f"({UNDRAWN})().length === 0", timeout=20_000)
                found = []
            except TimeoutError:
                found = page.evaluate(UNDRAWN)
            if page.evaluate(TOO_WIDE):
                found.append("wider than 390 pixels")
            for fault in found:
                print(f"{name}: {fault}")
            faulty += bool(found)
    print(f"{len(names)} pages in Chromium without a network, {faulty} with faults")
    server.shutdown()
    return faulty


if __name__ == "__main__":
    sys.exit(min(main(), 1))
