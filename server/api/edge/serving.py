"""Running the app by uvicorn, within bounds: in this process, or in several that share one address."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

import structlog
import uvicorn
from uvicorn.supervisors import Multiprocess

from server.api.app import create_app
from server.api.edge.bounds import Bounds, raise_descriptor_limit
from server.api.edge.protocol import BoundedConfig
from server.errors import SettingsError
from server.settings import Settings
from server.wire.process import NOTICE

log = structlog.get_logger()
GRACE_SECONDS = 5  # for requests that are being answered at the end; the supervisor waits a little longer
STARTUP_FAILED = 3
# How long the event loop waits for a thread that computes; the default of 5 ms is several times an answer's own time.
SWITCH_SECONDS = 0.0005
FACTORY = "server.api.app:from_environment"


def check_workers(settings: Settings, workers: int) -> None:
    """Raises SettingsError for several server processes over SQLite."""
    if workers > 1 and settings.url.startswith("sqlite"):
        raise SettingsError(
            f"--workers {workers} needs PostgreSQL, since one server process by design writes to SQLite: "
            "set ELASTICVIT_DATABASE_URL, or leave --workers out"
        )


def serve(settings: Settings, workers: int = 1) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    sys.setswitchinterval(SWITCH_SECONDS)
    bounds = Bounds.of(settings, raise_descriptor_limit())
    log.info("serving", url=settings.server_url, workers=workers, **bounds.as_log())
    config = make_config(settings, bounds, workers)
    if workers > 1:
        notice = signal.getsignal(NOTICE)
        processes = Multiprocess(config, sockets=[config.bind_socket()])
        signal.signal(NOTICE, notice)  # it takes all signals, also the one that says that our parent has ended
        processes.run()
        return 0
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run()
    return 0 if server.started else STARTUP_FAILED


def make_config(settings: Settings, bounds: Bounds, workers: int = 1) -> BoundedConfig:
    """uvicorn's settings. Several processes make their apps themselves, since an app cannot be sent to them."""
    return BoundedConfig(
        FACTORY if workers > 1 else create_app(settings),
        factory=workers > 1,
        bounds=bounds,
        workers=workers,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=list(settings.proxies),
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_worker_healthcheck=30,
    )
