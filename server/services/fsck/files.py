"""Stored files: every one that the database names is there and has its hash; what nobody names is reported."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session, col, select

from elasticvit.hashing import file_sha256
from elasticvit.progress import Report, Step
from server.services import supernet_damage
from server.services.fsck.finding import Finding
from server.settings import Settings
from server.store.blobs import Blobs
from server.store.part_files import PREFIX, STALE_SECONDS
from server.store.tables import Model, ModelFile, Predictor, Supernet

PHASE = "stored files"
AGAIN = {
    "upload": "Upload it again: POST /models",
    "anchor": "Start the service with `elasticvit up`, which makes it again",
}
EXPORT = "Ask for its architecture again by POST /subnets; its measurements and searches are still there"


@dataclass(frozen=True)
class Named:
    """A stored file that the database names, what it is, and what to do without it."""

    sha256: str
    what: str
    do: str


def named(session: Session) -> Iterator[Named]:
    """Every stored file of the database."""
    for model in session.exec(select(Model).order_by(col(Model.id))).yield_per(100):
        name = f", '{model.name}'" if model.name else ""
        what = f"the file of model {model.id} ({model.source}{name})"
        yield Named(model.sha256, what, AGAIN.get(model.source, EXPORT))
    for file in session.exec(select(ModelFile).order_by(col(ModelFile.model_id))):
        do = f"Download it again with format={file.format}, which makes it again"
        yield Named(file.sha256, f"model {file.model_id} as {file.format}", do)
    for row in session.exec(select(Predictor).order_by(col(Predictor.id))):
        what = f"latency predictor {row.id}, version {row.version} of device '{row.device}'"
        do = (
            "Searches are answered by the version before, if there is one. Make a new version by POST /jobs "
            f'{{"kind": "calibrate", "device": "{row.device}", "supernet": "{row.supernet}"}}'
        )
        yield Named(row.sha256, what, do)


def check_blobs(blobs: Blobs, names: list[Named], report: Report) -> Iterator[Finding]:
    """Missing and damaged ones, each with what is lost."""
    wrong: dict[str, str | None] = {}
    for number, name in enumerate(names):
        report(Step(PHASE, number, len(names)))
        if name.sha256 not in wrong:
            wrong[name.sha256] = _wrong(blobs.path(name.sha256), name.sha256)
        if (why := wrong[name.sha256]) is not None:
            yield Finding(f"{name.what[0].upper()}{name.what[1:]} {why}", name.do)
    report(Step(PHASE, len(names), len(names)))


def check_others(settings: Settings, blobs: Blobs, known: set[str] | None, report: Report) -> Iterator[Finding]:
    """Files of the store that no row names. Where the database cannot be read, `known` is None, and every file is
    compared with its name."""
    paths = sorted(path for path in blobs.root.glob("??/*") if path.is_file())
    orphans: list[Path] = []
    for number, path in enumerate(paths):
        report(Step("other files", number, len(paths)))
        if known is None:
            if (why := _wrong(path, path.name)) is not None:
                yield Finding(f"The stored file {path.name} {why}", "Restore it from a backup")
        elif path.name not in known and _age_seconds(path) > STALE_SECONDS:
            orphans.append(path)
    report(Step("other files", len(paths), len(paths)))
    if orphans:
        yield _remark(f"{_files(orphans)} in {blobs.root} belong to nothing", "They may be removed", orphans)
    folders = (settings.home, blobs.root, settings.supernets_folder)
    parts = [path for folder in folders for path in folder.glob(f"{PREFIX}*") if _age_seconds(path) > STALE_SECONDS]
    if parts:
        yield _remark(f"{_files(parts)} were not finished by killed processes", "The next start removes them", parts)
    aside = [path for folder in folders for path in folder.glob("damaged/*")]
    aside += settings.home.glob("*.damaged-*")
    if aside:
        yield _remark(f"{_files(aside)} were damaged and set aside", "They may be removed", aside)


def check_supernets(session: Session, folder: Path) -> Iterator[Finding]:
    """Supernet files and accuracy tables against their rows."""
    for damage in supernet_damage.damaged(session, folder):
        what, _, do = damage.sentence.partition(": ")
        yield Finding(f"{what[0].upper()}{what[1:]}", f"{do[0].upper()}{do[1:]}")
    if not session.exec(select(Supernet.name).where(col(Supernet.is_default).is_(True))).all():
        yield Finding("No supernet answers requests that name none", "Start the service with `elasticvit up`")


def _wrong(path: Path, sha256: str) -> str | None:
    try:
        if file_sha256(path) == sha256:
            return None
    except FileNotFoundError:
        return f"is missing ({path})"
    except OSError as error:
        return f"cannot be read ({path}: {error.strerror})"
    return f"is damaged ({path})"


def _remark(what: str, do: str, paths: list[Path]) -> Finding:
    shown = ", ".join(path.name for path in paths[:3])
    return Finding(f"{what}: {shown}{', …' if len(paths) > 3 else ''}", do, is_remark=True)


def _files(paths: list[Path]) -> str:
    size_mb = sum(path.stat().st_size for path in paths if path.exists()) / 1e6
    return f"{len(paths)} files ({size_mb:.1f} MB)"


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
