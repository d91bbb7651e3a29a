"""Models and their files."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse

from server.api.edge.access import DEPARTED
from server.api.file_body import file_bytes, pieces
from server.api.routes.deps import (
    Downloader,
    IdempotencyHeader,
    IfNoneMatch,
    MaxResults,
    PageToken,
    Reader,
    State,
    TheState,
    Uploader,
    listed,
)
from server.api.things import NOT_MODIFIED, matches, respond
from server.errors import Forbidden, InfraError, NotFound, NotYet
from server.services import conversions, idempotency, leases, models
from server.services.storable import digest
from server.store.blobs import Draft
from server.store.tables import Job, Model, ModelFile, Token
from server.wire import Download, ModelSource, ModelView, Name, OtherFormat, Page, Role

router = APIRouter(tags=["models"])
BINARY = "application/octet-stream"
LOOK_SECONDS = 0.1
RETRY_SECONDS = 5
FILE = {"schema": {"type": "string", "format": "binary"}}
NOT_CHANGED = {"description": "The file has the ETag that was sent"}
BLOB_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {BINARY: FILE}}, 304: NOT_CHANGED}
FILE_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {BINARY: FILE, "application/json": {}, "text/markdown": {"schema": {"type": "string"}}}},
    304: NOT_CHANGED,
}
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            BINARY: {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@router.post("/models", status_code=201, response_model=ModelView, openapi_extra=UPLOAD)
async def upload_model(
    request: Request,
    state: TheState,
    token: Uploader,
    response: Response,
    name: Annotated[Name | None, Query()] = None,
    key: IdempotencyHeader = None,
) -> ModelView | Response:
    """Upload a .tflite: its bytes as the body, or as `file` of a form. It can then be measured."""
    try:
        async with state.uploads.admitted(token.id) as upload:
            with state.blobs.draft(state.settings.max_upload_bytes) as draft:
                async for piece in pieces(file_bytes(request)):
                    upload.add_bytes(len(piece))
                    await run_in_threadpool(draft.write, piece)
                manifest = await state.uploads.check(draft)
                view = await run_in_threadpool(_add, state, draft, manifest, name, key, token.id)
    except ClientDisconnect:  # or it was too slow
        request.scope["state"][DEPARTED] = True
        return Response(status_code=400)
    response.headers["Location"] = view.url
    return view


@router.get("/models", response_model=Page[ModelView])
async def list_models(
    request: Request,
    state: TheState,
    _token: Reader,
    page_token: PageToken = None,
    max_results: MaxResults = 50,
    source: ModelSource | None = None,
    arch_id: str | None = None,
) -> Response:
    wanted = models.conditions(source, arch_id)
    return await listed(request, state, state.lists.models, wanted, page_token, max_results)


@router.get("/models/{model_id}", response_model=ModelView, responses=NOT_MODIFIED)
async def get_model(model_id: str, state: TheState, _token: Reader, held: IfNoneMatch = None) -> Response:
    return respond(await state.things.models.answer(model_id), held)


@router.get("/models/{model_id}/download", response_class=Response, responses=FILE_ANSWER)
async def download_model(
    model_id: str,
    state: TheState,
    token: Downloader,
    format: Annotated[Download, Query()] = "tflite",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The model's file; `ETag` is its SHA-256. `onnx` and `pt2` are made at the first request, which waits for them; if
    that takes too long, the answer is 503 with Retry-After."""
    model = await run_in_threadpool(_model, state, model_id, token)
    if token.role == Role.AGENT and format != "tflite":
        raise Forbidden("a token of role agent downloads only the .tflite files of its leases")
    if format == "manifest":
        return _text(models.manifest_bytes(model), "application/json", if_none_match)
    if format == "card":
        return _text(models.card_bytes(model), "text/markdown; charset=utf-8", if_none_match)
    sha256 = model.sha256 if format == "tflite" else await _converted(state, model, format)
    return await run_in_threadpool(_file, state, sha256, if_none_match, f"{model.arch_id or model.id}.{format}")


@router.get("/blobs/{sha256}", response_class=Response, responses=BLOB_ANSWER)
def get_blob(
    sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")],
    state: TheState,
    token: Downloader,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """A file by its SHA-256. An agent gets only those that its leases name."""
    if token.role == Role.AGENT:
        with state.database.read() as session:
            leases.check_download(session, sha256, token.id)
    return _file(state, sha256, if_none_match, sha256)


def _add(
    state: State, draft: Draft, manifest: dict[str, Any], name: str | None, key: str | None, token_id: str
) -> ModelView:
    now = state.now
    use = idempotency.Use(key, token_id, "/models", digest({"sha256": draft.sha256, "name": name}))
    with state.database.write() as session:
        made = idempotency.once(
            session, use, now, lambda: {"id": models.add_upload(session, draft, manifest, name, now).id}
        )
        return models.view(models.get(session, made["id"]))


def _model(state: State, model_id: str, token: Token) -> Model:
    """The model, if the token may download it. Raises NotFound, Forbidden."""
    with state.database.read() as session:
        if token.role == Role.AGENT:
            known = session.get(Model, model_id)
            leases.check_download(session, known.sha256 if known else "", token.id)
        return models.get(session, model_id)


async def _converted(state: State, model: Model, format: OtherFormat) -> str:
    """The hash of the model's file in another format, once it is made. Raises NotFound, Conflict, NotYet."""
    file_or_job = await run_in_threadpool(_find_or_enqueue, state, model, format)
    if isinstance(file_or_job, ModelFile):
        return file_or_job.sha256
    job_id = file_or_job.id
    deadline = time.monotonic() + state.settings.convert_wait_seconds
    while not await run_in_threadpool(_is_made, state, job_id):
        if time.monotonic() > deadline:
            raise NotYet(
                f"the {format} file is still being made, by job '{job_id}': ask again in {RETRY_SECONDS} s",
                retry_after_seconds=RETRY_SECONDS,
            )
        await asyncio.sleep(LOOK_SECONDS)
    file = await run_in_threadpool(_find_or_enqueue, state, model, format)
    if not isinstance(file, ModelFile):
        raise InfraError(f"the {format} file of model '{model.id}' was removed as soon as it was made: ask again")
    return file.sha256


def _find_or_enqueue(state: State, model: Model, format: OtherFormat) -> ModelFile | Job:
    with state.database.read() as session:
        if (file := conversions.find(session, state.blobs, model, format)) is not None:
            return file
    with state.database.write() as session:
        return conversions.enqueue(session, model, format, state.now)


def _is_made(state: State, job_id: str) -> bool:
    with state.database.read() as session:
        return conversions.finished(session, job_id)


def _file(state: State, sha256: str, if_none_match: str | None, name: str) -> Response:
    try:
        path = state.blobs.find(sha256)
    except NotFound as error:
        with state.database.read() as session:
            raise models.missing_file(session, sha256) from error
    etag = f'"{sha256}"'
    if matches(if_none_match, etag):
        return Response(status_code=304, headers={"ETag": etag})
    return FileResponse(path, media_type=BINARY, filename=name, headers={"ETag": etag})


def _text(content: bytes, media_type: str, if_none_match: str | None) -> Response:
    etag = f'"{models.sha256(content)}"'
    if matches(if_none_match, etag):
        return Response(status_code=304, headers={"ETag": etag})
    return Response(content, media_type=media_type, headers={"ETag": etag})
