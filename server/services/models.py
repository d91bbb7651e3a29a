"""Models: deployable files with their manifests, exported or uploaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import JSON, ColumnElement, type_coerce, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import defer
from sqlmodel import Session, and_, col, not_, or_, select

from elasticvit.accuracy import value
from elasticvit.archs.arch import Arch, arch_object
from elasticvit.costs.flops import macs, params
from server.errors import DamagedFile, NotFound, ServerError
from server.ids import new_id
from server.services import tflite_upload
from server.services.storable import storable
from server.store.blobs import Blobs, Draft
from server.store.tables import Model, ModelFile, Predictor, Supernet
from server.wire import Accuracy, BlobRef, ModelSource, ModelView

# What lists do not show is not read.
SUMMARY = (defer(Model.arch, raiseload=True), defer(Model.manifest, raiseload=True))  # type: ignore[arg-type]
SHORT = (ModelView.model_fields.keys() & Model.model_fields.keys()) - {"arch", "manifest", "accuracy"}


@dataclass(frozen=True)
class StoredFile:
    """A blob in the store."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class NewModel:
    """An exported model to be stored. `export_key` is what decided its bytes, None when it is not to be found again."""

    file: StoredFile
    source: ModelSource
    manifest: Mapping[str, Any]
    name: str | None = None
    precision: str | None = None
    arch: Arch | None = None
    accuracy: value.Accuracy | None = None
    supernet: str | None = None
    export_key: str | None = None

    @property
    def arch_id(self) -> str | None:
        """None for the anchor: it is not found by its architecture, and no predictor is fitted to it."""
        return None if self.arch is None or self.source == "anchor" else self.arch.id


def store_bytes(blobs: Blobs, data: bytes) -> StoredFile:
    """Raises DiskFull, ReadOnlyHome."""
    return StoredFile(blobs.put(data), len(data))


def add(session: Session, new: NewModel, now: datetime) -> Model:
    """Add an exported model. The same bytes from the same source are one model, and so are two of the same
    `export_key`: a repeated job adds nothing, and of two concurrent jobs only one does. What is known of a model never
    changes while its bytes stay the same, because a file states its own accuracy."""
    if (model := _same(session, new)) is not None:
        model.export_key = new.export_key or model.export_key
        session.add(model)
        session.flush()
        return model
    model = _row(new, now)
    try:
        with session.begin_nested():
            session.add(model)
            session.flush()
    except IntegrityError:
        # Another worker was faster; this happens where transactions do not wait for each other (PostgreSQL).
        if (faster := _of_key(session, new.export_key)) is None:
            raise
        return faster
    return model


def exported(session: Session, blobs: Blobs, export_key: str) -> Model | None:
    """The model that was exported under this key; None without one, or when its file is gone or damaged."""
    model = _of_key(session, export_key)
    return model if model is not None and blobs.is_whole(model.sha256) else None


def forget_unmeasured(session: Session, supernet: str) -> None:
    """Let models whose accuracy, or its change by their precision, was not measured, or only on images that also chose
    them, be exported again: for a supernet whose images are on this machine now. The models stay."""
    session.execute(update(Model).where(Model.supernet == supernet, *_unmeasured()).values(export_key=None))  # type: ignore[arg-type]


def with_unmeasured(session: Session) -> Sequence[Supernet]:
    """The supernets with exported models that `forget_unmeasured` is for."""
    names = select(Model.supernet).where(*_unmeasured())
    return session.exec(select(Supernet).where(col(Supernet.name).in_(names))).all()


def _unmeasured() -> list[ColumnElement[bool]]:
    accuracy = type_coerce(col(Model.accuracy), JSON)
    source, chose = accuracy["source"].as_string(), accuracy["independent"].as_boolean().is_(False)
    # A calibration's models are for timing: their accuracy is never measured.
    reusable = [col(Model.export_key).is_not(None), col(Model.source) != "calibration"]
    change = type_coerce(col(Model.manifest), JSON)["top1_change", "source"].as_string()
    unmeasured = or_(change.is_(None), not_(change.startswith("measured")))
    quantised = and_(col(Model.precision) != "float32", unmeasured)
    return [*reusable, or_(source.is_(None), source != "measured", chose, quantised)]


def converted_file(session: Session, model_id: str, format: str) -> ModelFile | None:
    """The model in another format, None until it was converted."""
    return session.get(ModelFile, (model_id, format))


def add_converted(session: Session, model_id: str, format: str, file: StoredFile, now: datetime) -> ModelFile:
    """Add a model in another format; it replaces an earlier conversion."""
    row = session.merge(
        ModelFile(model_id=model_id, format=format, sha256=file.sha256, size_bytes=file.size_bytes, created_at=now)
    )
    session.flush()
    return row


def _row(new: NewModel, now: datetime) -> Model:
    return Model(
        id=new_id("model", now),
        name=new.name,
        source=new.source,
        sha256=new.file.sha256,
        size_bytes=new.file.size_bytes,
        precision=new.precision,
        arch=arch_object(new.arch) if new.arch is not None else None,
        arch_id=new.arch_id,
        macs=macs(new.arch) if new.arch is not None else None,
        params=params(new.arch) if new.arch is not None else None,
        accuracy=wire_accuracy(new.accuracy).model_dump(),
        supernet=new.supernet,
        manifest=dict(new.manifest),
        created_at=now,
        export_key=new.export_key,
    )


def _same(session: Session, new: NewModel) -> Model | None:
    """The model with these bytes. Another model with this key loses the key."""
    keyed = _of_key(session, new.export_key)
    if keyed is not None and keyed.sha256 == new.file.sha256:
        return keyed
    if keyed is not None:
        keyed.export_key = None
        session.add(keyed)
        session.flush()
    same = (Model.sha256 == new.file.sha256, Model.source == new.source, Model.arch_id == new.arch_id)
    return session.exec(select(Model).where(*same)).first()


def _of_key(session: Session, export_key: str | None) -> Model | None:
    if export_key is None:
        return None
    return session.exec(select(Model).where(Model.export_key == export_key)).first()


def check_upload(draft: Draft) -> dict[str, Any]:
    """The manifest of an uploaded file that is not stored yet; its bytes are then on the disk.

    Raises BadValue for anything but a whole .tflite, Busy, InfraError.
    """
    draft.flush()
    return storable({"sha256": draft.sha256, "size_bytes": draft.size_bytes, **tflite_upload.describe(draft.path)})


def add_upload(session: Session, draft: Draft, manifest: dict[str, Any], name: str | None, now: datetime) -> Model:
    """Add a checked upload. Its bytes are stored last, so that nothing is left behind by an error before."""
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


ANCHOR = select(Model).where(Model.source == "anchor").order_by(col(Model.id)).limit(1).options(defer(Model.manifest))  # type: ignore[arg-type]


def anchor(session: Session) -> Model | None:
    """The fixed model that every session interleaves: the first one of source `anchor`."""
    return session.exec(ANCHOR).first()


def missing_file(session: Session, sha256: str) -> ServerError:
    """Why there is no file of this hash: DamagedFile where something names it, NotFound otherwise."""
    what = _named(session, sha256)
    if what is None:
        return NotFound(f"there is no file with sha256 {sha256}")
    return DamagedFile(
        f"the file of {what} is no longer in the server's home folder: export or upload it again; "
        "`elasticvit fsck` lists everything that is missing"
    )


def _named(session: Session, sha256: str) -> str | None:
    """What has this blob as its file, None if nothing has."""
    model = session.exec(select(Model.id).where(Model.sha256 == sha256).limit(1)).first()
    if model is not None:
        return f"model '{model}'"
    file = session.exec(select(ModelFile).where(ModelFile.sha256 == sha256).limit(1)).first()
    if file is not None:
        return f"model '{file.model_id}' as {file.format}"
    predictor = session.exec(select(Predictor.id).where(Predictor.sha256 == sha256).limit(1)).first()
    return None if predictor is None else f"predictor '{predictor}'"


def ref(model: Model) -> BlobRef:
    return BlobRef(sha256=model.sha256, size_bytes=model.size_bytes, url=f"/blobs/{model.sha256}")


def manifest_bytes(model: Model) -> bytes:
    """The manifest as it is downloaded: indented JSON."""
    return json.dumps(model.manifest, indent=2, sort_keys=True).encode() + b"\n"


def card_bytes(model: Model) -> bytes:
    """The model's card, written from its manifest. Raises NotFound for an uploaded file, and for a manifest that a card
    cannot be written from, such as one of another version."""
    if model.source == "upload":
        raise NotFound(f"model '{model.id}' was uploaded and has no card: ask for format=manifest")
    from elasticvit.export.manifest import Manifest
    from elasticvit.export.model_card import model_card

    try:
        manifest = Manifest.model_validate(model.manifest)
    except ValidationError as error:
        raise NotFound(
            f"model '{model.id}' has no card, since its manifest lacks what a card says: ask for format=manifest"
        ) from error
    return model_card(manifest).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def conditions(source: ModelSource | None = None, arch_id: str | None = None) -> list[ColumnElement[bool]]:
    """Which models a list shows."""
    wanted = ((Model.source, source), (Model.arch_id, arch_id))
    return [col(column) == value for column, value in wanted if value is not None]


def summaries(session: Session, model_ids: Sequence[str]) -> dict[str, ModelView]:
    """Models as lists show them, by id: without architectures and manifests."""
    terms = type_coerce(col(Model.manifest), JSON)["terms"].as_string()
    found = session.exec(select(Model, terms).where(col(Model.id).in_(model_ids)).options(*SUMMARY))
    return {model.id: _view(model, terms=text, arch=None, manifest=None) for model, text in found}


def wire_accuracy(accuracy: value.Accuracy | None) -> Accuracy:
    """An accuracy as HTTP and the database hold it: all fields are None where nothing is known."""
    if accuracy is None:
        return Accuracy()
    return Accuracy.model_validate({**asdict(accuracy), "images": accuracy.images or None})


def view(model: Model) -> ModelView:
    return _view(model, terms=model.manifest.get("terms"), arch=model.arch, manifest=model.manifest)


def _view(
    model: Model, *, terms: str | None, arch: dict[str, Any] | None, manifest: dict[str, Any] | None
) -> ModelView:
    return ModelView(
        **{name: getattr(model, name) for name in SHORT},
        arch=arch,
        manifest=manifest,
        accuracy=Accuracy.model_validate(model.accuracy),
        terms=terms,
        url=f"/models/{model.id}",
        download_url=f"{download_url(model)}?format=tflite",
    )


def download_url(model: Model) -> str:
    """Where the `.tflite` is downloaded; the parameter `format` asks for another file."""
    return f"/models/{model.id}/download"
