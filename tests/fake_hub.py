"""A real HTTP server on loopback that serves folders as the Hugging Face hub serves models.

Only what downloading needs: a model's facts, its file list, its files. `absent`, `gated` and revisions it
does not know are answered as the hub answers them.
"""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """The server. Use as a context manager; `models` maps an id to the folder that holds it."""

    def __init__(self, models: dict[str, Path], gated: frozenset[str] = frozenset()) -> None:
        self.models, self.gated = models, gated
        self.fetched: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub._answer(self, body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, body=False)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake-hub", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path).strip("/")
        listing = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        id, rest = "/".join(parts[:2]), parts[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        if id not in self.models:
            return self._refuse(request, 404, "RepoNotFound")
        if id in self.gated and not (listing and not rest):
            return self._refuse(request, 403, "GatedRepo")
        if revision not in ("main", COMMIT):
            return self._refuse(request, 404, "RevisionNotFound")
        folder = self.models[id]
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if listing and rest[:1] == ["tree"]:
            tree = [
                {
                    "type": "file",
                    "path": file.relative_to(folder).as_posix(),
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in files
            ]
            return self._send(request, json.dumps(tree).encode(), body)
        if listing:
            names = [{"rfilename": file.relative_to(folder).as_posix()} for file in files]
            facts = {"id": id, "modelId": id, "sha": COMMIT, "siblings": names, "private": False, "tags": []}
            return self._send(request, json.dumps(facts).encode(), body)
        file = folder.joinpath(*rest[2:])
        if not file.is_file():
            return self._refuse(request, 404, "EntryNotFound")
        if body:
            self.fetched.append(file.relative_to(folder).as_posix())
        data = file.read_bytes()
        return self._send(request, data, body, ETag=f'"{hashlib.sha1(data).hexdigest()}"')

    def _send(self, request: BaseHTTPRequestHandler, data: bytes, body: bool, **headers: str) -> None:
        request.send_response(200)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(data)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(data)

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("X-Error-Message", code)
        request.send_header("Content-Length", "0")
        request.end_headers()


def set_constants(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    """Set constants of the hub's client, which reads the environment only when it is imported."""
    import huggingface_hub.constants as constants

    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)


def point_at(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the hub's client talk to `url` and keep what it fetches in `cache`."""
    import huggingface_hub.hf_api as hf_api

    set_constants(
        monkeypatch,
        ENDPOINT=url,
        HUGGINGFACE_CO_URL_TEMPLATE=url + "/{repo_id}/resolve/{revision}/{filename}",
        HF_HUB_CACHE=str(cache),
        HF_HUB_DISABLE_XET=True,
    )
    monkeypatch.setattr(hf_api.api, "endpoint", url)
