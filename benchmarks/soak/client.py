"""A careful client: it repeats what got no answer, with an Idempotency-Key, so that nothing is created twice."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from server.wire.connect import base_url, http_client

PATIENCE_SECONDS = 180.0
PAGE = 200
RETRIED = (502, 503, 504, 507)


@dataclass
class Client:
    """Requests to the service on `port` with the admin token of `home`; `seen` counts the answers by status, and the
    requests without an answer as `none`."""

    home: Path
    port: int
    seen: Counter[str] = field(default_factory=Counter)
    _http: httpx.Client | None = None

    def get(self, path: str, **parameters: Any) -> Any:  # noqa: ANN401  any JSON
        return self._patiently(lambda http: http.get(path, params=parameters)).json()

    def pages_of(self, path: str, **parameters: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
        """All items of a list."""
        token: str | None = None
        while True:
            more = {"page_token": token} if token else {}
            page = self.get(path, max_results=PAGE, **parameters, **more)
            yield from page["items"]
            token = page["next_page_token"]
            if token is None:
                return

    def models_mb(self) -> float:
        """The size of all models; the same file counts once."""
        sizes: dict[str, int] = {model["sha256"]: model["size_bytes"] for model in self.pages_of("/models")}
        return sum(sizes.values()) / 1e6

    def bytes_of(self, path: str) -> bytes:
        return self._patiently(lambda http: http.get(path)).content

    def create(self, path: str, **content: Any) -> Any:  # noqa: ANN401
        """POST with a key of its own; the JSON of the answer."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._patiently(lambda http: http.post(path, headers=headers, **content)).json()

    def ready(self) -> bool:
        try:
            return httpx.get(f"{base_url('127.0.0.1', self.port)}/readyz", timeout=10, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def wait_ready(self, seconds: float) -> None:
        """Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the service was not ready within {seconds:g} s")
            time.sleep(0.5)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()

    def _patiently(self, send: Callable[[httpx.Client], httpx.Response]) -> httpx.Response:
        """The answer, asked for until there is one. Raises HTTPStatusError for a refusal."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = send(self._connected())
                self.seen[str(answer.status_code)] += 1
            except httpx.TransportError:
                self.seen["none"] += 1
                answer = None
            if answer is not None and answer.status_code not in RETRIED:
                return answer.raise_for_status()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {PATIENCE_SECONDS:g} s")
            time.sleep(0.3)

    def _connected(self) -> httpx.Client:
        if self._http is None:
            token = (self.home / "admin.token").read_text().strip()
            headers = {"Authorization": f"Bearer {token}"}
            self._http = http_client(base_url("127.0.0.1", self.port), timeout_seconds=30.0, headers=headers)
        return self._http
