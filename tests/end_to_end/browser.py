"""A headless Chromium for tests of pages; whatever leaves the machine fails the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from machine import need_chromium
from playwright.sync_api import Page, sync_playwright

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium_page(served_by: str = "", own: bool = False, **context: Any) -> Iterator[Page]:
    """A page whose errors and requests are held against it at the end.

    Args:
        served_by: address of a foreign program whose page this is. What it says to its console is its own
            affair, and it may ask that address.
        own: the program at that address is not foreign; other names are not resolved.
    """
    allowed = ("file:", "data:", "blob:", *([f"{served_by}/"] if served_by else []))
    faults: list[str] = []
    with sync_playwright() as playwright:
        alone = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"] if own else []
        browser = playwright.chromium.launch(
            executable_path=need_chromium(), args=[*ARGUMENTS, *alone]
        )
        page = browser.new_context(**context).new_page()
        if own or not served_by:
            page.on("pageerror", lambda error: faults.append(f"error: {error}"))
            page.on(
                "console", lambda said: faults.append(said.text) if said.type == "error" else None
            )
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(allowed)
                else faults.append(f"request to {request.url}")
            ),
        )
        yield page
        # A script that closing cuts short is no fault of the page.
        found = list(faults)
        browser.close()
    assert not found, found
