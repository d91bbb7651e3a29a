"""Models: deployable files with their manifests, ours and uploaded ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import JSON, ColumnElement, type_coerce, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, and_, col, not_, or_, select

from elasticvit.accuracy import value
from server.errors import NotFound
from server.services import tflite_upload
from server.services.pages import page
from server.services.storable import storable
from server.store.blobs import Blobs, Draft
from server.store.tables import Model, ModelFile, Supernet, new_id
from server.wire import Accuracy, BlobRef, ModelView, Page

Source = Literal["search", "subnet", "calibration", "anchor", "upload"]


@dataclass(frozen=True)
class Kept:
    """A blob that is stored already."""

    sha256: str
    size_bytes: int


def store(
    session: Session,
    blobs: Blobs,
    *,
    file: bytes | Path | Kept,
    source: Source,
    now: datetime,
    manifest: Mapping[str, Any],
    name: str | None = None,
    precision: str | None = None,
    arch: Mapping[str, Any] | None = None,
    arch_id: str | None = None,
    macs: int | None = None,
    params: int | None = None,
    accuracy: Accuracy | None = None,
    supernet: str | None = None,
    export_key: str | None = None,
) -> Model:
    """Keep an exported file. The same bytes from the same source are one model, and so are those under the same
    `export_key`, so a repeated job adds nothing, and of two that do it at once one. A file tells its own accuracy, so
    what is known of a model never changes with its bytes the same.

    Raises DiskFull, ReadOnlyHome.
    """
    kept = _kept(blobs, file)
    if (model := _same(session, kept, source, arch_id, export_key)) is not None:
        model.export_key = export_key or model.export_key
        session.add(model)
        session.flush()
        return model
    model = Model(
        id=new_id("model", now),
        name=name,
        source=source,
        sha256=kept.sha256,
        size_bytes=kept.size_bytes,
        precision=precision,
        arch=dict(arch) if arch is not None else None,
        arch_id=arch_id,
        macs=macs,
        params=params,
        accuracy=(accuracy or Accuracy()).model_dump(),
        supernet=supernet,
        manifest=dict(manifest),
        created_at=now,
        export_key=export_key,
    )
    try:
        with session.begin_nested():
            session.add(model)
            session.flush()
    except IntegrityError:
        # Another worker was faster; where transactions do not wait for each other, this is how it shows.
        if (other := _of_key(session, export_key)) is None:
            raise
        return other
    return model


def exported(session: Session, blobs: Blobs, export_key: str) -> Model | None:
    """The model that was exported under this key, if its file is still there."""
    model = _of_key(session, export_key)
    return model if model is not None and blobs.path(model.sha256).is_file() else None


def forget_unmeasured(session: Session, supernet: str) -> None:
    """Its images are at hand: what was exported without them, so that its accuracy, or what its precision changes of
    it, is no measurement of ours, is not found again but exported anew. The models stay."""
    session.execute(update(Model).where(Model.supernet == supernet, *_unmeasured()).values(export_key=None))  # type: ignore[arg-type]


def with_unmeasured(session: Session) -> Sequence[Supernet]:
    """The supernets of which there are exported models without a measured accuracy, or change of it."""
    names = select(Model.supernet).where(*_unmeasured())
    return session.exec(select(Supernet).where(col(Supernet.name).in_(names))).all()


def _unmeasured() -> list[ColumnElement[bool]]:
    source = type_coerce(col(Model.accuracy), JSON)["source"].as_string()
    # A calibration's models are for timing: nobody recalibrate them.
    found = [col(Model.export_key).is_not(None), col(Model.source) != "calibration"]
    change = type_coerce(col(Model.manifest), JSON)["top1_change", "source"].as_string()
    unmeasured = or_(change.is_(None), not_(change.startswith("measured")))
    quantised = and_(col(Model.precision) != "float32", unmeasured)
    return [*found, or_(source.is_(None), source != "measured", quantised)]


def other_file(session: Session, model_id: str, format: str) -> ModelFile | None:
    """The model in another format, None before it was converted."""
    return session.get(ModelFile, (model_id, format))


def add_other_file(session: Session, model_id: str, format: str, kept: Kept, now: datetime) -> ModelFile:
    """Know a model in another format; made again, it is the newer one."""
    made = ModelFile(model_id=model_id, format=format, sha256=kept.sha256, size_bytes=kept.size_bytes, created_at=now)
    row = session.merge(made)
    session.flush()
    return row


def _kept(blobs: Blobs, file: bytes | Path | Kept) -> Kept:
    if isinstance(file, Kept):
        return file
    return Kept(blobs.put(file), len(file)) if isinstance(file, bytes) else Kept(*blobs.put_file(file))


def _same(session: Session, kept: Kept, source: Source, arch_id: str | None, export_key: str | None) -> Model | None:
    """The model that these bytes are already. One of this key with other bytes gives the key up."""
    keyed = _of_key(session, export_key)
    if keyed is not None and keyed.sha256 == kept.sha256:
        return keyed
    if keyed is not None:
        keyed.export_key = None
        session.add(keyed)
        session.flush()
    same = select(Model).where(Model.sha256 == kept.sha256, Model.source == source, Model.arch_id == arch_id)
    return session.exec(same).first()


def _of_key(session: Session, export_key: str | None) -> Model | None:
    if export_key is None:
        return None
    return session.exec(select(Model).where(Model.export_key == export_key)).first()


def check_upload(draft: Draft) -> dict[str, Any]:
    """The manifest of an uploaded file, not kept yet. Raises BadValue for what is no whole .tflite."""
    draft.flush()
    return storable({"sha256": draft.sha256, "size_bytes": draft.size_bytes, **tflite_upload.describe(draft.path)})


def add_upload(session: Session, draft: Draft, manifest: dict[str, Any], name: str | None, now: datetime) -> Model:
    """Keep a checked upload, its bytes last: what fails before leaves nothing behind."""
    model = Model(
        id=new_id("model", now),
        name=name,
        source="upload",
        sha256=draft.sha256,
        size_bytes=draft.size_bytes,
        accuracy=Accuracy().model_dump(),
        manifest=manifest,
        created_at=now,
    )
    session.add(model)
    session.flush()
    draft.keep()
    return model


def get(session: Session, model_id: str) -> Model:
    """Raises NotFound."""
    model = session.get(Model, model_id)
    if model is None:
        raise NotFound(f"there is no model '{model_id}': GET /models lists them")
    return model


def anchor(session: Session) -> Model | None:
    """The fixed model that every session interleaves: the first one stored as such."""
    return session.exec(select(Model).where(Model.source == "anchor").order_by(col(Model.id)).limit(1)).first()


def ref(model: Model) -> BlobRef:
    return BlobRef(sha256=model.sha256, size_bytes=model.size_bytes, url=f"/blobs/{model.sha256}")


def manifest_bytes(model: Model) -> bytes:
    """The manifest as it is downloaded."""
    return json.dumps(model.manifest, indent=2, sort_keys=True).encode() + b"\n"


def card_bytes(model: Model) -> bytes:
    """The model's card, written from its manifest. Raises NotFound for a file that is not ours."""
    if model.source == "upload":
        raise NotFound(f"model '{model.id}' was uploaded and has no card: ask for format=manifest")
    from elasticvit.export.manifest import Manifest
    from elasticvit.export.model_card import model_card

    return model_card(Manifest.model_validate(model.manifest)).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def listing(
    session: Session, page_token: str | None, max_results: int, source: Source | None = None, arch_id: str | None = None
) -> Page[ModelView]:
    """Newest first."""
    wanted = select(Model)
    if source is not None:
        wanted = wanted.where(Model.source == source)
    if arch_id is not None:
        wanted = wanted.where(Model.arch_id == arch_id)
    return page(session, wanted, col(Model.id), page_token, max_results, view)


def wire_accuracy(accuracy: value.Accuracy | None) -> Accuracy:
    """An accuracy as HTTP and the database hold it: both fields are None where nothing is known."""
    return Accuracy() if accuracy is None else Accuracy(value=accuracy.value, source=accuracy.source)


def view(model: Model) -> ModelView:
    return ModelView(
        **model.model_dump(exclude={"accuracy"}),
        accuracy=Accuracy.model_validate(model.accuracy),
        terms=model.manifest.get("terms"),
        url=f"/models/{model.id}",
        download_url=download_url(model),
    )


def download_url(model: Model) -> str:
    return f"/models/{model.id}/download?format=tflite"
