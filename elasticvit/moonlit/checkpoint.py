"""Read the authors' checkpoint files without running anything that is in them.

A `.pth` is a pickle, and a pickle can name any function to call. Only torch's weights-only reader is used here, which
knows tensors and plain containers. Other values that training scripts often store (numbers of numpy, parsed arguments)
are read by classes of this module that keep a number or nothing: no class that a file names is ever created.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from elasticvit.errors import SupernetFileError
from elasticvit.moonlit.names import Weights

# Of two names the last counts: the authors' own, before that of timm's saver.
_SETS = {Weights.MODEL: ("state_dict",), Weights.EMA: ("state_dict_ema", "model_ema")}
_NUMBERS = re.compile(r"[<>=|]?([biuf][1248])")
_WRAPPED = "module."

TensorsByKey = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The sets of weights in a file, by their kind; `unnamed` if it holds one set and does not say which."""

    sets: Mapping[Weights, TensorsByKey]
    unnamed: TensorsByKey | None = None
    epoch: int | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """The weights in a file of `torch.save` (the training script's whole dict, or a bare state dict) or in safetensors.

    A prefix `module.` on every key is taken off. The tensors are as stored: nothing is known of shapes and values.

    Raises:
        SupernetFileError: missing, truncated, damaged, holds no weights, or needs code to be run; the message then
            says how to take the weights out.
    """
    if not path.is_file():
        raise SupernetFileError(f"no checkpoint {path}")
    with path.open("rb") as file:
        start = file.read(9)
    # Safetensors starts with the length of a JSON object, then the object.
    content = _read_safetensors(path) if start[8:] == b"{" else _read_torch(path)
    if not isinstance(content, Mapping):
        raise SupernetFileError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    sets = {
        kind: _tensors(path, key, content[key])
        for kind, keys in _SETS.items()
        for key in keys
        if content.get(key) is not None
    }
    if not sets:
        return Checkpoint({}, unnamed=_tensors(path, "the file", content))
    epoch = content.get("epoch")
    return Checkpoint(sets, epoch=epoch if isinstance(epoch, int) else None)


def _read_safetensors(path: Path) -> TensorsByKey:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise SupernetFileError(f"{path} is not a whole safetensors file: {error}") from error


def _read_torch(path: Path) -> object:
    if path.is_file() and path.stat().st_size == 0:
        raise SupernetFileError(f"{path} is not a whole file of torch.save: it is empty")
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with torch.serialization.safe_globals(list(_REPLACEMENTS)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise almost anything
        named = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if named is None:
            raise SupernetFileError(
                f"{path} is not a whole file of torch.save: it is cut off, damaged or of another kind"
            ) from error
        raise SupernetFileError(
            f"{path} cannot be read without running code: it names {named[1]}. Nothing was run. If you trust its"
            " author, take the weights out in a sandbox: c = torch.load(FILE, weights_only=False);"
            " torch.save({k: c[k] for k in ('state_dict', 'model_ema') if k in c}, 'weights.pth'); and import that"
        ) from error


def _check_archive(path: Path) -> None:
    """Refuse a compressed archive, which torch never writes and which may grow without bound, and flipped bits."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [item.filename for item in archive.infolist() if item.compress_type != zipfile.ZIP_STORED]
            damaged = packed[0] if packed else archive.testzip()
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError) as error:
        raise SupernetFileError(f"{path} is not a whole file of torch.save: {error}") from error
    if damaged is not None:
        raise SupernetFileError(f"{path} is damaged: its record {damaged!r} is not as torch.save wrote it")


def _tensors(path: Path, where: str, content: object) -> TensorsByKey:
    if not isinstance(content, Mapping) or not content:
        raise SupernetFileError(f"{path} holds no weights: {where} is {type(content).__name__}")
    for key, value in content.items():
        # A subclass, a sparse or an unbacked tensor could hide its numbers from the checks that follow.
        plain = type(value) in (Tensor, torch.nn.Parameter) and value.layout is torch.strided
        if not isinstance(key, str) or not plain or value.device.type != "cpu":
            raise SupernetFileError(f"{path} holds no weights of the authors: {where} has {key!r}, no plain tensor")
    if all(key.startswith(_WRAPPED) for key in content):
        content = {key.removeprefix(_WRAPPED): value for key, value in content.items()}
    return content


class _NumberKind:
    """Replaces numpy's dtype: keeps the name of a plain number, and refuses any other."""

    def __init__(self, name: str, *_: object) -> None:
        match = _NUMBERS.fullmatch(name)
        if match is None:
            raise pickle.UnpicklingError(f"no plain number: {name!r}")
        self.name, self.order = match[1], "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _number(kind: _NumberKind, data: bytes) -> float | int | bool:
    """Replaces numpy's scalar."""
    value: float | int | bool = np.frombuffer(data, kind.order + kind.name, count=1)[0].item()
    return value


class _Nothing:
    """Replaces parsed arguments and ignores their values."""

    def __setstate__(self, state: object) -> None:
        pass


_REPLACEMENTS = (
    (_NumberKind, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (_Nothing, "argparse.Namespace"),
    (_Nothing, "types.SimpleNamespace"),
)
