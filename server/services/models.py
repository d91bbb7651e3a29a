"""Models: deployable files with their manifests, ours and uploaded ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sqlmodel import Session, col, select

from server import tflite
from server.blobs import Blobs, Draft
from server.errors import NotFound
from server.services.pages import page
from server.services.storable import storable
from server.tables import Model, new_id
from server.wire import Accuracy, BlobRef, ModelView, Page

Source = Literal["search", "subnet", "calibration", "anchor", "upload"]


def store(
    session: Session,
    blobs: Blobs,
    *,
    file: bytes | Path,
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
) -> Model:
    """Keep an exported file. The same bytes from the same source are one model, so a repeated job adds nothing.

    Raises DiskFull, ReadOnlyHome.
    """
    sha256, size_bytes = (blobs.put(file), len(file)) if isinstance(file, bytes) else blobs.put_file(file)
    same = select(Model).where(Model.sha256 == sha256, Model.source == source, Model.arch_id == arch_id)
    if (model := session.exec(same).first()) is not None:
        if accuracy is not None and accuracy.source == "measured" and model.accuracy.get("source") == "predicted":
            # The images came to hand meanwhile.
            model.accuracy, model.manifest = accuracy.model_dump(), dict(manifest)
            session.add(model)
        return model
    model = Model(
        id=new_id("model", now),
        name=name,
        source=source,
        sha256=sha256,
        size_bytes=size_bytes,
        precision=precision,
        arch=dict(arch) if arch is not None else None,
        arch_id=arch_id,
        macs=macs,
        params=params,
        accuracy=(accuracy or Accuracy()).model_dump(),
        supernet=supernet,
        manifest=dict(manifest),
        created_at=now,
    )
    session.add(model)
    session.flush()
    return model


def check_upload(draft: Draft) -> dict[str, Any]:
    """The manifest of an uploaded file, not kept yet. Raises BadValue for what is no whole .tflite."""
    draft.flush()
    return storable({"sha256": draft.sha256, "size_bytes": draft.size_bytes, **tflite.describe(draft.path)})


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
