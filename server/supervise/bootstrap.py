"""What a home folder needs before it can answer: a supernet, the anchor, a token for this machine's agent.

Every step first checks whether it is done, so that preparing twice, or after a crash, does only what is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from elasticvit.export.api import anchor
from elasticvit.hashing import file_sha256
from elasticvit.nn.supernet_header import ENDING
from elasticvit.pretrained.prepare import prepare_default
from elasticvit.progress import Say
from server.clock import Clock, utc_now
from server.errors import BadValue, InfraError, Unauthorized
from server.services import models, supernet_files, supernets, tokens
from server.services.home import prepare
from server.settings import Settings
from server.store.blobs import Blobs, write_private
from server.store.db import Database
from server.store.tables import Supernet
from server.wire import HOST, Role

HOST_AGENT = "host-agent"


def prepare_home(settings: Settings, say: Say, clock: Clock = utc_now) -> None:
    """Make a home folder ready; what takes time is reported by `say`. Raises InfraError, ElasticVitError."""
    database = prepare(settings, clock)
    say("building the benchmark program")
    build_benchmark()
    file = prepare_default(settings.supernets_folder, say, name=settings.supernet)
    register_supernets(database, settings.supernets_folder, file, say, clock)
    keep_anchor(database, Blobs(settings.blobs_folder), clock)
    ensure_agent_token(database, agent_token_file(settings), clock)
    database.close()


def build_benchmark() -> None:
    """Build android_bench for this machine, in a process of its own. Raises InfraError with the builder's message."""
    done = subprocess.run(
        [sys.executable, "-m", "android_bench.build"], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        raise InfraError(f"the benchmark program could not be built: {done.stderr.strip()[-1000:]}")


def register_supernets(database: Database, folder: Path, default: Path, say: Say, clock: Clock) -> None:
    """Register all supernet files of the home folder; `default` answers requests that name none.

    Raises BadValue if `default` cannot be served. Others that cannot be served are reported and left out.
    """
    register_supernet(database, default, clock)
    with database.write() as session:
        supernets.make_default(session, default.stem)
    for file in sorted(folder.glob(f"*{ENDING}")):
        if file == default or file.name.startswith("."):
            continue
        try:
            register_supernet(database, file, clock)
        except BadValue as error:
            say(f"not serving {file.name}: {error.detail}")


def register_supernet(database: Database, file: Path, clock: Clock) -> None:
    """Register a supernet file of the home folder, unless it is registered and unchanged. Raises BadValue."""
    with database.read() as session:
        row = session.get(Supernet, file.stem)
    if row is not None and row.size_bytes == file.stat().st_size and row.sha256 == file_sha256(file):
        return
    supernet_files.register(database, file, clock())


def keep_anchor(database: Database, blobs: Blobs, clock: Clock) -> None:
    """Store the anchor model if it is missing."""
    with database.read() as session:
        if models.anchor(session) is not None:
            return
    exported = anchor()
    new = models.NewModel(
        models.store_bytes(blobs, exported.tflite),
        "anchor",
        json.loads(exported.manifest.to_json()),
        name="anchor",
        precision="float32",
        arch=exported.manifest.read_arch(),
    )
    with database.write() as session:
        models.add(session, new, clock())


def agent_token_file(settings: Settings) -> Path:
    return settings.home / "agents" / HOST / "agent.token"


def ensure_agent_token(database: Database, file: Path, clock: Clock) -> None:
    """Make sure that `file` (mode 0600) holds a valid token of role agent."""
    secret = tokens.read_secret(file)
    with database.write() as session:
        try:
            if tokens.authenticate(session, secret).role == Role.AGENT:
                return
        except Unauthorized:
            pass
        file.parent.mkdir(parents=True, exist_ok=True)
        tokens.set_other_aside(file)
        # The same token with a new secret, because devices belong to the token that registered them.
        secret = tokens.replaced_secret(session, HOST_AGENT, Role.AGENT)
        write_private(file, (secret or tokens.create(session, HOST_AGENT, Role.AGENT, clock()).token) + "\n")
