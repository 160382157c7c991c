"""A real FastAPI service on uvicorn, its loop in a thread of this process, which counts what it is sent."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response


class Service:
    """Serves from entering to leaving.

    ``/predict`` takes ``{"x": VALUE}`` and counts it in ``seen``, by its JSON; ``/raw`` counts whole bodies;
    ``/status/N`` answers with status N.  A value in ``refused`` is answered by status 500.
    """

    def __init__(self, host: str = "127.0.0.1", certificate: tuple[Path, Path] | None = None, prefix: str = "") -> None:
        self.seen: Counter[Any] = Counter()
        self.hosts: Counter[str] = Counter()
        self.types: Counter[str] = Counter()
        self.refused: set[str] = set()
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=self._family, backlog=512)
        port = self._socket.getsockname()[1]
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.url = f"{'http' if certificate is None else 'https'}://{self.authority}"
        files: dict[str, Any] = (
            {} if certificate is None else {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
        )
        config = uvicorn.Config(self._app(prefix), log_level="critical", **files)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    @property
    def count(self) -> int:
        return self.seen.total()

    def __enter__(self) -> Service:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _app(self, prefix: str) -> FastAPI:
        app = FastAPI()

        @app.post(f"{prefix}/predict")
        async def predict(request: Request) -> Response:
            value = json.dumps((await request.json())["x"])
            self.seen[value] += 1
            self._note(request)
            if value in self.refused:
                return Response("out of order", 500)
            return Response(json.dumps({"ok": True, "y": [{"label": value}]}), media_type="application/json")

        @app.api_route(f"{prefix}/raw", methods=["POST", "PUT", "PATCH"])
        async def raw(request: Request) -> dict[str, Any]:
            body = await request.body()
            self.seen[body] += 1
            self._note(request)
            return {"size": len(body), "method": request.method, "query": str(request.url.query)}

        @app.post(f"{prefix}/status/{{status}}")
        async def status(status: int, request: Request) -> Response:
            self.seen[await request.body()] += 1
            return Response(status_code=status)

        return app

    def _note(self, request: Request) -> None:
        self.hosts[request.headers["host"]] += 1
        self.types[request.headers.get("content-type", "")] += 1
