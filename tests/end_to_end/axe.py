"""axe-core, which finds what keeps people from using a page: from npm, once, by its hash."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path

from machine import missing
from playwright.sync_api import Page

PACKAGE = "axe-core-4.10.3"
DIGEST = "0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292"
FOLDER = Path(__file__).parents[2] / "build" / "npm"
# Of what is as it should be no places are worked out, which took most of the time.
FOUND = """async (rules) => (
    await axe.run({ resultTypes: ["violations"], ...(rules && { runOnly: rules }) })
).violations.flatMap((one) =>
    one.nodes.map((node) => `${one.id}: ${node.target.join(" ")}: ${node.failureSummary}`))"""


@cache
def script() -> str:
    """Its text; the test is skipped where npm cannot bring it."""
    archive = FOLDER / f"{PACKAGE}.tgz"
    if not archive.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        if npm is None:
            missing("axe-core comes from npm, which is not installed", "apt install npm")
        command = [npm, "pack", "--silent", "@".join(PACKAGE.rsplit("-", 1))]
        asked = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
        if asked.returncode:
            missing("npm cannot fetch axe-core", f"{' '.join(command)} in {FOLDER}")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == DIGEST, f"remove {archive}"
    with tarfile.open(archive) as files:
        inside = files.extractfile("package/axe.min.js")
        assert inside is not None
        return inside.read().decode()


def violations(page: Page, *rules: str) -> list[str]:
    """What axe-core finds wrong with the page as it stands, by some rules or by all."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(script())
    return page.evaluate(FOUND, list(rules) or None)
