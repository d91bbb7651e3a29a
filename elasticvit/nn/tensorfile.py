"""The bytes of a safetensors file, the same for the same content.

The format (https://github.com/huggingface/safetensors): the header's length as a little-endian u64, the header as JSON
padded with spaces to a multiple of 8, then the tensors without gaps. The package's own writer orders the header's
metadata differently in every process.
"""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A whole file; tensors of the widest numbers first, so that all are aligned. Raises `KeyError` for a number type
    that the format lacks."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    parts: list[bytes] = []
    end = 0
    for name in order:
        tensor = tensors[name]
        data = _bytes(tensor)
        offsets = [end, end + len(data)]
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        parts.append(data)
        end += len(data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *parts))


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
