"""What a home folder needs before it can answer: a supernet, the anchor, a token for this machine's agent.

Every step first checks whether it is done, so that preparing twice, or after a crash, does only what is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sqlmodel import Session

from elasticvit import pretrained
from elasticvit.errors import ElasticVitError
from elasticvit.export.api import anchor
from elasticvit.nn.supernet_header import ENDING
from elasticvit.pretrained.prepare import prepare_default
from elasticvit.progress import Say, unheard
from server.clock import Clock, utc_now
from server.errors import BadValue, InfraError, ServerError, Unauthorized
from server.services import device_binding, models, supernet_damage, supernet_files, supernets, tokens
from server.services.home import prepare
from server.settings import Settings
from server.store.blobs import Blobs, set_aside, write_private
from server.store.db import Database
from server.store.supernet_file import table_sha256
from server.store.tables import Device, Supernet, Token
from server.wire import HOST, Role

HOST_AGENT = "host-agent"


def prepare_home(settings: Settings, say: Say, clock: Clock = utc_now) -> None:
    """Make a home folder ready; what takes time is reported by `say`. Raises InfraError, ElasticVitError."""
    database = prepare(settings, clock)
    say("building the benchmark program")
    build_benchmark()
    prepare_supernets(settings, database, say, clock)
    keep_anchor(database, Blobs(settings.blobs_folder), clock, say)
    ensure_agent_token(database, agent_token_file(settings), clock)
    database.close()


def build_benchmark() -> None:
    """Build android_bench for this machine, in a process of its own. Raises InfraError with the builder's message."""
    done = subprocess.run(
        [sys.executable, "-m", "android_bench.build"], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        raise InfraError(f"the benchmark program could not be built: {done.stderr.strip()[-1000:]}")


def default_supernet(database: Database, settings: Settings, say: Say) -> tuple[Path, bool]:
    """The file of the default supernet, and whether it or its accuracy table was made by this start.

    Where it is not the one that was registered, it is set aside and made again, if this package can do that.
    Raises BadValue for one that it cannot make, and what `prepare_default` raises.
    """
    name, folder = settings.supernet or pretrained.default_name(), settings.supernets_folder
    file = folder / f"{name}{ENDING}"
    with database.read() as session:
        row = session.get(Supernet, name)
    damage = supernet_damage.of(row, folder) if row is not None else None
    if damage is not None:
        say(damage.sentence)
        if pretrained.shipped(name) is None and name != pretrained.TRAINED_HERE:
            raise BadValue(damage.sentence)
        if damage.path.exists():
            aside = set_aside(damage.path, folder / "damaged")
            say(f"the damaged file was moved to {aside}, and the one of this package takes its place")
    is_made = damage is not None or not file.exists()
    return prepare_default(folder, say, name=settings.supernet), is_made


def prepare_supernets(settings: Settings, database: Database, say: Say, clock: Clock) -> None:
    """Make and register the default supernet, and register the others of the home folder.

    Damaged files are set aside first. A default that was served before and is damaged now is reported: the service
    starts, and /readyz says what is missing. Raises ElasticVitError, BadValue for one that never was.
    """
    folder, name = settings.supernets_folder, settings.supernet or pretrained.default_name()
    for sentence in supernet_files.set_damaged_aside(folder):
        say(sentence)
    try:
        file, is_made = default_supernet(database, settings, say)
        register_supernets(database, folder, file, say, clock, is_made=is_made)
    except (ElasticVitError, BadValue) as error:
        with database.read() as session:
            if session.get(Supernet, name) is None:
                raise
        say(f"the default supernet {name} cannot be served now: {error}")
        register_others(database, folder, folder / f"{name}{ENDING}", say, clock)


def register_supernets(
    database: Database, folder: Path, default: Path, say: Say, clock: Clock, *, is_made: bool = False
) -> None:
    """Register all supernet files of the home folder; `default` answers requests that name none.

    Raises BadValue if `default` cannot be served. Others that cannot be served, whatever the reason, are reported and
    left out.
    """
    if not is_made:
        register_supernet(database, default, clock)
    elif supernet_files.register_made(database, default, clock()):
        say(f"supernet '{default.stem}' has other weights than before; models that came from those stay as they are")
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
    """Register a supernet file of the home folder, unless it is registered.

    Raises BadValue, also for one that is not what was registered under its name: its models and predictors came from
    other weights.
    """
    with database.read() as session:
        row = session.get(Supernet, file.stem)
    damage = supernet_damage.of(row, file.parent) if row is not None else None
    if damage is not None:
        raise BadValue(damage.sentence)
    if row is None or row.table_sha256 != table_sha256(file):
        supernet_files.register(database, file, clock())
    else:
        supernet_files.check(file, file.stem)  # its accuracy table may be damaged since


def keep_anchor(database: Database, blobs: Blobs, clock: Clock, say: Say = unheard) -> None:
    """Store the anchor model if it is missing, and its file again if that is gone or damaged."""
    with database.read() as session:
        stored = models.anchor(session)
    if stored is not None and blobs.is_whole(stored.sha256):
        return
    exported = anchor()
    if stored is not None:
        if models.sha256(exported.tflite) == stored.sha256:
            blobs.put(exported.tflite)
            say("the anchor's file was gone or damaged: it was made again")
        else:
            say(
                "the anchor's file is gone or damaged, and the packages here write another one: put it back from a "
                "backup, or nothing can be measured"
            )
        return
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
    """Make sure that `file` (mode 0600) holds a valid token of role agent, and that this machine's agent can serve the
    device `host` with it.

    A new token gets the device: the token file of a restored home may be missing. So does the present one where the
    token of the device was revoked. Otherwise an admin decides (`elasticvit devices rebind`).
    """
    secret = tokens.read_secret(file)
    with database.write() as session:
        token_id = _agent_token_id(session, secret)
        if token_id is None:
            file.parent.mkdir(parents=True, exist_ok=True)
            tokens.set_other_aside(file)
            # The same token with a new secret, because devices belong to the token that registered them.
            secret = tokens.replaced_secret(session, HOST_AGENT, Role.AGENT)
            secret = secret or tokens.create(session, HOST_AGENT, Role.AGENT, clock()).token
            session.flush()
            write_private(file, secret + "\n")
            token_id = tokens.authenticate(session, secret).id
        elif _has_valid_token(session, HOST):
            return
        if session.get(Device, HOST) is not None:
            device_binding.rebind(session, HOST, token_id, clock())


def _agent_token_id(session: Session, secret: str | None) -> str | None:
    """The id of a valid token of role agent; None for any other secret."""
    try:
        token = tokens.authenticate(session, secret)
    except Unauthorized:
        return None
    return token.id if token.role == Role.AGENT else None


def _has_valid_token(session: Session, device_name: str) -> bool:
    device = session.get(Device, device_name)
    token = session.get(Token, device.token_id) if device is not None and device.token_id is not None else None
    return token is not None and token.revoked_at is None
