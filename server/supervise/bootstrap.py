"""What a home folder needs before it can answer: a supernet, the anchor, a token for this machine's agent.

Every step first checks whether it is done, so that preparing twice, or after a crash, does only what is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from elasticvit import pretrained
from elasticvit.errors import ElasticVitError
from elasticvit.export.api import anchor
from elasticvit.hashing import file_sha256
from elasticvit.nn.supernet_header import ENDING
from elasticvit.pretrained.prepare import prepare_default
from elasticvit.progress import Say
from server.clock import Clock, utc_now
from server.errors import BadValue, InfraError, ServerError, Unauthorized
from server.services import models, supernet_files, supernets, tokens
from server.services.home import prepare
from server.settings import Settings
from server.store.blobs import Blobs, write_private
from server.store.db import Database
from server.store.tables import Supernet
from server.wire import HOST, Role


def prepare_home(settings: Settings, say: Say, clock: Clock = utc_now) -> None:
    """Make a home folder ready; what takes time is reported by `say`. Raises InfraError, ElasticVitError."""
    database = prepare(settings, clock)
    say("building the benchmark program")
    build_benchmark()
    prepare_supernets(settings, database, say, clock)
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


def prepare_supernets(settings: Settings, database: Database, say: Say, clock: Clock) -> None:
    """Make and register the default supernet, and register the others of the home folder.

    Damaged files are set aside first. A default that was served before and is damaged now is reported: the service
    starts, and /readyz says what is missing. Raises ElasticVitError, BadValue for one that never was.
    """
    folder, name = settings.supernets_folder, settings.supernet or pretrained.default_name()
    for sentence in supernet_files.set_damaged_aside(folder):
        say(sentence)
    try:
        register_supernets(database, folder, prepare_default(folder, say, name=name), say, clock)
    except (ElasticVitError, BadValue) as error:
        with database.read() as session:
            if session.get(Supernet, name) is None:
                raise
        say(f"the default supernet {name} cannot be served now: {error}")
        register_others(database, folder, folder / f"{name}{ENDING}", say, clock)


def register_supernets(database: Database, folder: Path, default: Path, say: Say, clock: Clock) -> None:
    """Register all supernet files of the home folder; `default` answers requests that name none.

    Raises BadValue if `default` cannot be served. Others that cannot be served, whatever the reason, are reported and
    left out.
    """
    register_supernet(database, default, clock)
    with database.write() as session:
        supernets.make_default(session, default.stem)
    register_others(database, folder, default, say, clock)


def register_others(database: Database, folder: Path, default: Path, say: Say, clock: Clock) -> None:
    """Register all supernet files of the home folder but the default. Those that cannot be served are reported."""
    for file in sorted(folder.glob(f"*{ENDING}")):
        if file == default or file.name.startswith("."):
            continue
        try:
            register_supernet(database, file, clock)
        except ServerError as error:
            say(f"not serving {file.name}: {error.detail}")
        except Exception as error:  # one odd file must not keep the service from starting
            say(f"not serving {file.name}: {type(error).__name__}: {error}")


def register_supernet(database: Database, file: Path, clock: Clock) -> None:
    """Register a supernet file of the home folder, unless it is registered and unchanged. Raises BadValue."""
    with database.read() as session:
        row = session.get(Supernet, file.stem)
    if row is not None and row.size_bytes == file.stat().st_size and row.sha256 == file_sha256(file):
        supernet_files.check(file, file.stem)  # its accuracy table may be damaged since
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
        write_private(file, tokens.create(session, "host-agent", Role.AGENT, clock()).token + "\n")
