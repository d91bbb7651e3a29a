"""Supernet files: safetensors with a JSON card, written whole or not at all.

Beside the weights a file may carry calibration images (`elasticvit.pretrained.calibration_images`), the tensor
`calibration.images`: networks can then be recalibrated without the training images, to the same numbers by everyone.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elasticvit.archs.space import Space
from elasticvit.atomic import atomic_file, synchronise, write_atomically
from elasticvit.errors import SupernetFileError
from elasticvit.nn import tensorfile
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_header import (
    FORMAT,
    SupernetHeader,
    open_safetensors,
    parse_supernet_header,
    read_supernet_header,
    table_path,
)

CALIBRATION = "calibration.images"


@dataclass(frozen=True)
class Card:
    """What a supernet is: its classes, data and how its images are scaled.

    A network sees `(pixel / 255 - mean) / std` per channel. `data` names the images that recalibration may use;
    `terms` are conditions that travel with every model, None where there are none.
    """

    name: str
    class_names: tuple[str, ...]
    data: str
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    terms: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def scaled(self, images: Tensor) -> Tensor:
        """What a network sees of (N, 3, H, W) bytes."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (images / 255 - mean) / std

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """Raises `KeyError`, `TypeError` or `ValueError` for a text that `to_json` did not write."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Card":
        """The card of a header (`SupernetHeader.card`). Raises `KeyError`, `TypeError` or `ValueError`."""
        return cls(**{**data, **{key: tuple(data[key]) for key in ("class_names", "mean", "std")}})


class LoadedSuperNet(SuperNet):
    """A supernet with the card of its file and the calibration images in it, (K, 3, H, W) bytes or None.

    The images are no buffer: they are no part of the network and of its state.
    """

    def __init__(self, space: Space, card: Card, calibration: Tensor | None = None) -> None:
        super().__init__(space)
        self.card = card
        self.calibration = calibration


def replace_supernet(
    path: Path, supernet: SuperNet, card: Card, *, half: bool = False, calibration: Tensor | None = None
) -> None:
    """Write a supernet file as `save_supernet` does, and remove the accuracy table of another supernet of that name,
    because it says nothing about the new one. Arguments and errors as of `save_supernet`.
    """
    data = _encoded(path, supernet, card, half, calibration)
    with atomic_file(path, error=SupernetFileError, parents=True) as file:
        file.write(data)
        if not _holds(path, data):
            # After all that a full disk refuses, and before the new file can be read beside it.
            synchronise(file)
            table_path(path).unlink(missing_ok=True)


def save_supernet(
    path: Path, supernet: SuperNet, card: Card, *, half: bool = False, calibration: Tensor | None = None
) -> None:
    """Write a supernet file; readers see the old file or the new one, never a part. Equal content is equal bytes.

    Args:
        half: store numbers in half precision, which a network barely notices and which halves the file. A tensor with
            numbers beyond half precision's range stays as it is.
        calibration: images (K, 3, H, W) bytes that the file carries, 2 or more.

    Raises:
        SupernetFileError: the card does not fit the supernet, a weight is not finite, the calibration images are
            none, or the disk refuses.
    """
    data = _encoded(path, supernet, card, half, calibration)
    write_atomically(path, data, error=SupernetFileError, parents=True)


def _encoded(path: Path, supernet: SuperNet, card: Card, half: bool, calibration: Tensor | None) -> bytes:
    if len(card.class_names) != supernet.space.classes:
        raise SupernetFileError(f"{len(card.class_names)} class names for {supernet.space.classes} classes")
    state = dict(supernet.net.state_dict())
    _check_finite(state, path)
    if half:
        state = {name: _halved(tensor) for name, tensor in state.items()}
    if calibration is not None:
        _check_images(calibration, path)
        state[CALIBRATION] = calibration
    header = {"format": FORMAT, "space": supernet.space.to_json(), "card": card.to_json()}
    return tensorfile.encode(state, header)


def load_supernet(path: str | Path) -> LoadedSuperNet:
    """Read a supernet file, in eval mode on the CPU.

    Raises:
        SupernetFileError: missing, truncated, of another format, with missing, extra or misshapen tensors, or not
            finite; the message names what is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise SupernetFileError(f"no supernet file {path}")
    space, card, state = _read(path)
    calibration = state.pop(CALIBRATION, None)
    if calibration is not None:
        _check_images(calibration, path)
    with torch.device("meta"):
        supernet = LoadedSuperNet(space, card, calibration)
    wanted = supernet.net.state_dict()
    if missing := sorted(wanted.keys() - state.keys()):
        raise SupernetFileError(f"{path}: {len(missing)} tensors are missing, the first is {missing[0]}")
    if extra := sorted(state.keys() - wanted.keys()):
        raise SupernetFileError(f"{path}: {len(extra)} tensors are not part of the network, the first is {extra[0]}")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            actual, expected = tuple(tensor.shape), tuple(wanted[name].shape)
            raise SupernetFileError(f"{path}: {name} has shape {actual}, its space needs {expected}")
    _check_finite(state, path)
    supernet.net.load_state_dict(state, assign=True)
    return supernet.eval()


def read_card(path: str | Path) -> tuple[Space, Card]:
    """Space and card of a supernet file without its weights. Raises `SupernetFileError`."""
    return _described(Path(path), read_supernet_header(Path(path)))


def _read(path: Path) -> tuple[Space, Card, dict[str, Tensor]]:
    with open_safetensors(path, "pt") as file:
        space, card = _described(path, parse_supernet_header(path, file.metadata()))
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    # Half-precision files are for storage; networks run in float32.
    return space, card, {n: t.float() if t.is_floating_point() else t for n, t in state.items()}


def _described(path: Path, header: SupernetHeader) -> tuple[Space, Card]:
    try:
        return header.space, Card.from_dict(header.card)
    except (KeyError, TypeError, ValueError) as error:
        raise SupernetFileError(f"{path} has a damaged header: {error}") from error


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _halved(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if torch.isfinite(half).all() else tensor


def _check_images(images: Tensor, path: Path) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) < 2:
        actual = f"{tuple(images.shape)} {images.dtype}"
        raise SupernetFileError(f"{path}: calibration images must be (2 or more, 3, H, W) bytes, got {actual}")


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise SupernetFileError(f"{path}: {name} holds NaN or infinite numbers")
