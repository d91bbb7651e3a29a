"""A network as a .pt2 file, for programs that have torch but not this package."""

import io

import torch
from torch import Tensor

from elasticvit.errors import ExportError
from elasticvit.export.converters.exported_program import exported_program, quiet
from elasticvit.nn.net import Net

DESCRIPTION = "elasticvit.json"
"""The name under which the description lies in the file: `torch.export.load(file, extra_files={DESCRIPTION: ""})`."""


def write_pt2(net: Net, description: str) -> bytes:
    """images (B, 3, side, side), float32 → logits (B, classes); `description` is any text, kept in the file.

    The same network and text give the same bytes: the archive carries neither times nor paths.

    Raises:
        ExportError: training mode, weights that are not finite, or that are not float32 on the CPU.
    """
    file = io.BytesIO()
    with quiet("torch"):
        torch.export.save(exported_program(net), file, extra_files={DESCRIPTION: description})
    return file.getvalue()


def run_pt2(data: bytes, images: Tensor) -> Tensor:
    """Logits (B, classes) of images (B, 3, side, side).

    Raises:
        ExportError: torch does not take the file or the images.
    """
    try:
        with quiet("torch"), torch.inference_mode():
            logits: Tensor = torch.export.load(io.BytesIO(data)).module()(images)
            return logits
    except Exception as error:  # torch raises errors of many kinds for a damaged archive
        raise ExportError(f"torch does not run the .pt2 file: {error}") from error
