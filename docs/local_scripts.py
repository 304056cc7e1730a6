"""Mermaid and KaTeX as files of the site: a hook of MkDocs, by which no page loads anything from elsewhere.

Both come from npm at the versions below, once, into `build/npm`, and are checked against their hashes. A
page that has no diagram and no formula loads neither. With CHECK=1 in the environment nothing is fetched:
the site is built for its links and warnings alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

PACKAGES = {
    "mermaid-11.17.2": "6ad2f42c3fc26bbf9e45cbb6d11898972573ea52b33a5f4ff51952899f950ffd",
    "katex-0.16.47": "ad2d1ab2f7fcc227019784320e8a2c5218ff6bb333b36df4136d10365ae29375",
}
"""Name and version on npm, and the SHA-256 of the archive."""
FILES = re.compile(
    r"package/dist/(mermaid\.min\.js|katex\.min\.(js|css)|fonts/.*\.woff2|contrib/auto-render\.min\.js)"
)
NPM = Path("build/npm")
DIAGRAMS = '<script src="{base}mermaid-11.17.2/mermaid.min.js"></script>'
FORMULAS = """\
<link rel="stylesheet" href="{base}katex-0.16.47/katex.min.css">
<script src="{base}katex-0.16.47/katex.min.js"></script>
<script src="{base}katex-0.16.47/contrib/auto-render.min.js"></script>
<script>
document.querySelectorAll(".arithmatex").forEach(one => renderMathInElement(one, {{throwOnError: true}}))
</script>"""


WIDE = re.compile(r'<pre class="mermaid"><code>flowchart LR\n.*?</pre>', re.DOTALL)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Add the scripts that the page needs, and let wide diagrams scroll on narrow screens."""
    output = WIDE.sub(lambda m: f'<div class="wide-diagram" tabindex="0">{m[0]}</div>', output)
    base = "../" * page.url.count("/") + "npm/"
    needed = [
        text.format(base=base)
        for mark, text in (('class="mermaid"', DIAGRAMS), ('class="arithmatex"', FORMULAS))
        if mark in output
    ]
    # Before the theme's own script, which loads Mermaid from elsewhere where there is none.
    place = output.rindex("<script src=")
    return output[:place] + "\n".join(needed) + output[place:]


def on_post_build(*, config: Any, **_: Any) -> None:
    """Copy the files into the site."""
    if os.environ.get("CHECK") == "1":
        return
    for package, digest in PACKAGES.items():
        shutil.copytree(unpacked(package, digest), Path(config.site_dir) / "npm" / package)


def unpacked(package: str, digest: str) -> Path:
    """The folder with a package's files, fetched if it is not there."""
    folder = NPM / package
    if folder.is_dir():
        return folder
    NPM.mkdir(parents=True, exist_ok=True)
    archive = NPM / f"{package}.tgz"
    npm = shutil.which("npm")
    if npm is None:
        raise PluginError(
            f"{package} comes from npm, which is not installed (Debian: apt install npm)"
        )
    name = "@".join(package.rsplit("-", 1))
    asked = subprocess.run([npm, "pack", "--silent", name], cwd=NPM, capture_output=True, text=True)
    if asked.returncode:
        raise PluginError(f"npm could not fetch {name}: {(asked.stderr or asked.stdout).strip()}")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
        raise PluginError(f"{archive} is not the {name} that docs/local_scripts.py names")
    unfinished = NPM / f"{package}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    with tarfile.open(archive) as files:
        for member in files:
            if FILES.fullmatch(member.name):
                member.name = member.name.removeprefix("package/dist/")
                files.extract(member, unfinished, filter="data")
    unfinished.rename(folder)
    archive.unlink()
    return folder
