"""A hub of data sets and models on this machine, with what `huggingface_hub` asks of the real one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse


@dataclass
class Hub:
    """Data sets by name: commits with their files, and the names of revisions.

    Attributes:
        commits: files by repository and commit.
        names: commit by repository and name of a revision.
        asked: paths that were asked for.
    """

    commits: dict[tuple[str, str], Mapping[str, bytes]] = field(default_factory=dict)
    names: dict[tuple[str, str], str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def push(self, repository: str, files: Mapping[str, bytes], *names: str) -> str:
        """Store a commit, to which `main` and the names point from now on."""
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        commit = hashlib.sha1(content).hexdigest()
        self.commits[repository, commit] = files
        for name in ("main", commit, *names):
            self.names[repository, name] = commit
        return commit

    def answer(self, path: str) -> tuple[bytes, dict[str, str]] | None:
        """Body and headers; None for what is not there."""
        self.asked.append(path)
        parts = path.strip("/").split("/")
        if parts[:1] == ["api"] and parts[4:5] == ["tree"]:
            return self._tree("/".join(parts[2:4]), parts[5])
        if parts[:1] == ["api"]:
            return self._info("/".join(parts[2:4]), "/".join(parts[5:]) or "main")
        if parts[:1] == ["datasets"] and parts[3:4] == ["resolve"]:
            return self._file("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        if parts[2:3] == ["resolve"]:
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return None

    def lacks(self, path: str) -> str:
        """What the real hub calls the fault of a path that is not there."""
        parts = path.strip("/").split("/")
        if parts[0] != "api":
            return "EntryNotFound"
        known = any(repository == "/".join(parts[2:4]) for repository, _ in self.names)
        return "RevisionNotFound" if known else "RepoNotFound"

    def _info(self, repository: str, revision: str) -> tuple[bytes, dict[str, str]] | None:
        commit = self.names.get((repository, revision))
        if commit is None:
            return None
        files = [_sibling(name, data) for name, data in self.commits[repository, commit].items()]
        told = {
            "id": repository,
            "sha": commit,
            "siblings": files,
            "private": False,
            "gated": False,
        }
        told |= {"disabled": False, "tags": [], "downloads": 0, "likes": 0}
        return json.dumps(told).encode(), {"Content-Type": "application/json"}

    def _tree(self, repository: str, revision: str) -> tuple[bytes, dict[str, str]] | None:
        commit = self.names.get((repository, revision), "")
        files = self.commits.get((repository, commit), {})
        listed = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in files.items()
        ]
        return json.dumps(listed).encode(), {"Content-Type": "application/json"}

    def _file(
        self, repository: str, revision: str, name: str
    ) -> tuple[bytes, dict[str, str]] | None:
        commit = self.names.get((repository, revision), "")
        data = self.commits.get((repository, commit), {}).get(name)
        if data is None:
            return None
        return data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    """A file as the hub lists it; weights lie in its store for large files."""
    told: dict[str, Any] = {
        "rfilename": name,
        "size": len(data),
        "blobId": hashlib.sha1(data).hexdigest(),
    }
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        told["lfs"] = {"size": len(data), "sha256": digest, "pointerSize": 134}
    return told


@contextmanager
def served(hub: Hub) -> Iterator[str]:
    """The address at which the hub answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            found = hub.answer(path)
            body, headers = found or (b"{}", {"X-Error-Code": hub.lacks(path)})
            self.send_response(200 if found else 404)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
