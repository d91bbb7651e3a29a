"""Sub-networks, models and supernets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from server.wire.base import Answer, Name, PrecisionName, Real, Request, UtcTime
from server.wire.text import BoundedJson

ModelSource = Literal["search", "subnet", "calibration", "anchor", "upload"]
OtherFormat = Literal["onnx", "pt2"]
"""What a model can be converted to."""
Download = Literal["tflite", OtherFormat, "manifest", "card"]
"""What can be downloaded of a model."""


class Accuracy(Answer):
    """Top-1 as a fraction (0 to 1); `source` is `measured`, `predicted`, or None when it is unknown.

    It is predicted from the supernet's accuracy table when the server does not have the images. `lower` and `upper` are
    its 95 % interval, `images` the number of images that it was measured on. `independent` is true if these images, or
    those behind the prediction, trained and chose nothing; false if they also chose the network, so that less is to be
    expected on others; null if that is not known.
    """

    value: float | None = None
    source: Literal["measured", "predicted"] | None = None
    images: int | None = None
    lower: float | None = None
    upper: float | None = None
    independent: bool | None = None


class SubnetRequest(Request):
    """Extract and export one architecture: canonical JSON, a published name, an id, or the official 10-list.

    `max_accuracy_drop` bounds the top-1, as a fraction (0 to 1), that `precision` costs the network, where that is
    known.
    """

    arch: Annotated[
        dict[str, Any] | list[Any] | Annotated[str, StringConstraints(min_length=1, max_length=20_000)], BoundedJson
    ]
    supernet: Name | None = None
    precision: PrecisionName = "float32"
    max_accuracy_drop: Annotated[Real, Field(ge=0, le=1)] = 0.01


class ModelView(Answer):
    """A deployable file. `source` is the kind of job that made it; an uploaded file has no arch.

    `terms` are the terms of use of its supernet. Lists leave out `arch` and `manifest`.
    """

    id: str
    name: str | None
    source: ModelSource
    sha256: str
    size_bytes: int
    precision: str | None
    arch: dict[str, Any] | None
    arch_id: str | None
    macs: int | None
    params: int | None
    accuracy: Accuracy
    supernet: str | None
    terms: str | None = None
    manifest: dict[str, Any] | None
    created_at: UtcTime
    url: str
    download_url: str


class SupernetAdd(Request):
    """Serve a supernet file of the server's machine, with its accuracy table NAME.accuracy.jsonl beside it.

    Both are copied to the server's home folder. `name` is by default the file's name without its ending.
    """

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    name: Name | None = None


class SupernetView(Answer):
    """A supernet of this server; `space` is the space's name or canonical JSON object.

    `terms` are its terms of use, which apply to all of its models.
    """

    name: str
    sha256: str
    size_bytes: int
    space: dict[str, Any] | str | None
    classes: int | None
    terms: str | None = None
    provenance: dict[str, Any]
    is_default: bool
    created_at: UtcTime
