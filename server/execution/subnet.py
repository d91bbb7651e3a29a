"""A `subnet` job: one named architecture becomes a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session, select

from elasticvit.arch import Arch
from elasticvit.errors import ArchError, SpaceError
from elasticvit.published import PUBLISHED
from server.errors import BadValue, NotFound
from server.execution.exports import export_subnet
from server.execution.stock import Stock
from server.tables import Model
from server.task import Task


def subnet(task: Task, stock: Stock) -> Mapping[str, Any]:
    """The model's id and where to fetch it. Raises BadValue, NotFound for what is no architecture of the supernet."""
    payload = task.job.payload
    at_hand = stock.get(payload["supernet"])
    task.say("extracting")
    with task.compute.database.read() as session:
        arch = find_arch(session, payload["arch"])
    try:
        model = export_subnet(task.compute, at_hand, arch, "subnet")
    except SpaceError as error:
        raise BadValue(f"supernet '{at_hand.name}' does not hold this architecture: {error}") from error
    return {
        "model_id": model.id,
        "arch_id": model.arch_id,
        "terms": model.manifest.get("terms"),
        "url": f"/models/{model.id}",
        "download_url": f"/models/{model.id}/download",
    }


def find_arch(session: Session, wanted: dict[str, Any] | list[Any] | str) -> Arch:
    """An architecture from canonical JSON, the official 10-list, a published name, or the id of one seen before.

    Raises BadValue, NotFound.
    """
    try:
        if isinstance(wanted, dict):
            return Arch.from_json(wanted)
        if isinstance(wanted, list):
            return Arch.from_moonlit(wanted)
        if wanted in PUBLISHED:
            return PUBLISHED[wanted]
        if wanted.lstrip().startswith("{"):
            return Arch.from_json(wanted)
        known = session.exec(select(Model.arch).where(Model.arch_id == wanted).limit(1)).first()
        if known is not None:
            return Arch.from_json(known)
    except ArchError as error:
        raise BadValue(str(error)) from error
    raise NotFound(
        f"there is no architecture '{wanted}': give a published name ({', '.join(PUBLISHED)}), an id from GET /models, "
        "canonical JSON or the 10-list"
    )
