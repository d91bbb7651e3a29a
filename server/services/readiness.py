"""What the server needs before it can answer a search, each a check with a sentence for its operator."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlmodel import Session, col, select

from server.services import devices, predictors, presence, supernet_damage, supernet_files, supernets, tokens
from server.settings import Settings
from server.store.blobs import Blobs
from server.store.tables import Device, Predictor, Supernet
from server.wire import HOST, DeviceState

MAX_NAMED = 20
State = Literal["ok", "degraded", "failed"]


@dataclass(frozen=True)
class Check:
    """`failed` means that searches are not answered, `degraded` that something less is missing."""

    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class Looker:
    """Looks at one home and its database.

    `was_ready`: a device `host` that measures, or for which there is no predictor any more, does not make the service
    unready later; one that is gone does.
    """

    settings: Settings
    blobs: Blobs
    now: datetime
    was_ready: bool

    def checks(self, session: Session) -> list[Check]:
        """Everything that is seen from the home folder and the database. Raises DBAPIError, ServerError."""
        default = supernets.default(session)
        host = self._host(session, default) if self.settings.expect_host else []
        return [
            self._admin_token(),
            self._supernet(default),
            *host,
            self._other_predictors(session),
            self._other_supernets(session),
            self._workers(session),
            Check("database", "ok", "the database answers"),
        ]

    def disk(self) -> Check:
        """Whether the home folder's disk has space and files left."""
        home, needed_mb = self.settings.home, self.settings.min_free_mb
        try:
            free_mb, status = shutil.disk_usage(home).free / 1e6, os.statvfs(home)
        except OSError as error:
            return Check("disk", "failed", f"the folder {home} cannot be used: {error.strerror}")
        if free_mb < needed_mb:
            return Check("disk", "failed", f"{free_mb:.0f} MB are free for {home}: free at least {needed_mb:g} MB")
        if status.f_files > 0 and status.f_ffree == 0:
            return Check("disk", "failed", f"no more files fit on the disk of {home}: remove some")
        return Check("disk", "ok", f"{free_mb:.0f} MB are free")

    def _admin_token(self) -> Check:
        if tokens.read_secret(self.settings.admin_token_file) is None:
            return Check("admin_token", "failed", f"{self.settings.admin_token_file} holds no token: start the server")
        return Check("admin_token", "ok", "the first admin token is written")

    def _supernet(self, default: Supernet | None) -> Check:
        if default is None:
            return Check("supernet", "failed", "no supernet is registered yet: run `elasticvit prepare`")
        damage = supernet_damage.of(default, self.settings.supernets_folder)
        if damage is not None:
            detail = f"the default supernet's file {damage.path} {damage.why}: put it back or start again"
            return Check("supernet", "failed", detail)
        return Check("supernet", "ok", f"{default.name} answers where no supernet is named")

    def _host(self, session: Session, default: Supernet | None) -> list[Check]:
        host = session.get(Device, HOST)
        return [self._host_state(session, host), self._host_predictor(session, host, default)]

    def _host_state(self, session: Session, host: Device | None) -> Check:
        state = None
        if host is not None:
            state = devices.state(session, host, self.now, self.settings.offline_after)
        if state in (None, DeviceState.OFFLINE):
            return Check("host_idle", "failed", "no agent serves this machine as a device: read the agent's log")
        if state is not DeviceState.IDLE and not self.was_ready:
            return Check("host_idle", "failed", "this machine is being measured")
        return Check("host_idle", "ok", "this machine is served as a device")

    def _host_predictor(self, session: Session, host: Device | None, default: Supernet | None) -> Check:
        versions = [] if host is None or default is None else self._versions(session, host.profile_id, default.name)
        if not versions and not self.was_ready:
            return Check("host_predictor", "failed", "this machine has no latency predictor yet: it is calibrated")
        return _judged("host_predictor", HOST, versions, [self.blobs.is_whole(row.sha256) for row in versions])

    def _versions(self, session: Session, profile_id: str, supernet: str) -> list[Predictor]:
        """The last two: the one that answers, and the one before."""
        same = (Predictor.profile_id == profile_id, Predictor.supernet == supernet)
        return list(session.exec(select(Predictor).where(*same).order_by(col(Predictor.version).desc()).limit(2)))

    def _other_predictors(self, session: Session) -> Check:
        damaged = predictors.damaged(session, self.blobs)
        if damaged:
            names = _named([f"{row.id} of {row.device}" for row in damaged])
            return Check(
                "predictors", "degraded", f"the files of these predictors are gone or damaged: {names}: calibrate again"
            )
        return Check("predictors", "ok", "the files of all predictors that answer are whole")

    def _other_supernets(self, session: Session) -> Check:
        folder = self.settings.supernets_folder
        aside = supernet_files.not_served(session, folder)
        aside += [f"{damage.path} ({damage.why})" for damage in supernet_damage.damaged(session, folder)]
        if aside:
            return Check("supernets", "degraded", f"not served: {_named(aside)}")
        return Check("supernets", "ok", "every file of the supernets folder is served")

    def _workers(self, session: Session) -> Check:
        alive, known = presence.seen(session, "worker", self.now, self.settings.offline_after)
        if alive:
            return Check("worker", "ok", f"{alive} at work")
        if known or self.settings.expect_host:
            return Check("worker", "failed", "no worker is alive: start `elasticvit worker`, or read the worker's log")
        return Check("worker", "ok", "no worker was started yet")


def _judged(name: str, device: str, versions: list[Predictor], whole: list[bool]) -> Check:
    if not versions or whole[0]:
        return Check(name, "ok", f"the latency of {device} is predicted")
    lost = f"the file of predictor {versions[0].id} is gone or damaged: calibrate {device} again"
    if any(whole):
        return Check(name, "degraded", f"{lost}; the version before answers")
    return Check(name, "failed", lost)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return "; ".join(names[:MAX_NAMED]) + more
