"""Peers as .tflite files, by the usual converter; each once, in a process of its own, and kept.

    python -m benchmarks.conversion NAME FOLDER

A conversion takes half a minute to three; what it makes lies in the cache folder (`ELASTICVIT_CACHE`, else
`~/.cache/elasticvit`) under a name made of the versions and sources that went into it. It is checked before it is kept:
the same MACs as in torch, and the same function on one input.
"""

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.attention_blocks import BLOCKS, attention_block
from benchmarks.interleave import say
from benchmarks.official import official_path
from benchmarks.peer_models import NAIVE, TIMM, VARIABLE, peer, peers_path, torch_macs, zero_scales
from elasticvit.atomic import atomic_folder
from elasticvit.data.readers.cache import cache_folder
from elasticvit.errors import ExportError
from elasticvit.export.tflite.reader import tflite_macs

FLOAT32, FACTS = "float32", "facts.json"
# Float32 kernels sum in other orders than torch; a lost or doubled operator changes far more.
TOLERANCE = 1e-3
_PACKAGES = ("torch", "litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert", "numpy")
_SOURCES = ("attention_blocks.py", "conversion.py", "official.py", "peer_models.py", "peer_precisions.py")
_CONVERSION_S = 1800


@dataclass(frozen=True, slots=True)
class Converted:
    """A peer's files by precision, and its MACs, which all of them have."""

    name: str
    macs: int
    zero_scales: int
    difference: float
    seconds: float
    files: Mapping[str, bytes]


def converted(name: str) -> Converted:
    """The named peer, from the cache or newly converted.

    Raises:
        FileNotFoundError: what it is made of was not given (`ELASTICVIT_PEERS`, `ELASTICVIT_OFFICIAL`).
        ExportError: the conversion failed, or a file is not the network.
    """
    _need(name)
    kept = place(name)
    if not (kept / FACTS).is_file():
        _convert_apart(name, kept)
    facts = json.loads((kept / FACTS).read_text())
    files = {file.stem: file.read_bytes() for file in sorted(kept.glob("*.tflite"))}
    for precision, data in files.items():
        if tflite_macs(data) != facts["macs"]:
            raise ExportError(f"{name} in {precision} has lost a part of the network; delete {kept}")
    return Converted(name=name, files=files, **facts)


def place(name: str) -> Path:
    """Where the named peer's files are kept, or will be."""
    return cache_folder() / "peers" / f"{name.lower().replace(' ', '-')}-{_key(name)}"


def _need(name: str) -> None:
    if name in TIMM and peers_path() is None:
        raise FileNotFoundError(f"{VARIABLE} is not set; see make bench")
    if name == NAIVE and official_path() is None:
        raise FileNotFoundError("ELASTICVIT_OFFICIAL is not set")


def _key(name: str) -> str:
    """Twelve digits that change with whatever could change the files."""
    digest = hashlib.sha256(name.encode())
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    sources = [Path(__file__).parent / source for source in _SOURCES]
    peers, official = peers_path(), official_path()
    if name in TIMM and peers:
        sources += sorted(peers.glob("t*.dist-info/METADATA"))
    if name == NAIVE and official:
        sources += sorted(official.rglob("models/*.py")) + sorted(official.rglob("configs/final_3min_space.yaml"))
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _convert_apart(name: str, kept: Path) -> None:
    """Into a passing folder, which is then renamed: two at once both end with a whole one."""
    say(f"  converting {name} (up to three minutes, kept for the next run)")
    with atomic_folder(kept, lambda folder: (folder / FACTS).is_file()) as fresh:
        command = [sys.executable, "-m", "benchmarks.conversion", name, str(fresh)]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=_CONVERSION_S, check=False)
        if done.returncode != 0:
            raise ExportError(f"converting {name} failed:\n{done.stderr.strip()[-2000:]}")


def module(name: str) -> tuple[nn.Module, Tensor, int]:
    """The named module, an input for it, and how many of its norms had a scale of zero."""
    if name in BLOCKS:
        block, tokens = attention_block(name)
        return block, tokens, 0
    return peer(name)


def convert(name: str, folder: Path) -> None:
    """Write the files of the named peer and what is known of them into an empty folder.

    Peers of timm take images channels last, as ours do, and come in all candidate precisions; the naive conversion is
    of the module as it is.

    Raises:
        ExportError: a file has other MACs than the module, or another function.
    """
    import litert_torch

    from benchmarks.peer_precisions import candidates

    start = time.perf_counter()
    model, image, zeros = module(name)
    if zero_scales(model):
        raise ExportError(f"{name} still has norms with a scale of zero")
    macs = torch_macs(model, image)
    with torch.inference_mode():
        expected = model(image).numpy()
    given = image
    if name in TIMM:
        model, given = litert_torch.to_channel_last_io(model, args=[0]), image.permute(0, 2, 3, 1).contiguous()
    litert_torch.convert(model.eval(), (given,)).export(str(folder / f"{FLOAT32}.tflite"))
    seconds = time.perf_counter() - start
    data = (folder / f"{FLOAT32}.tflite").read_bytes()
    if tflite_macs(data) != macs:
        raise ExportError(f"{name}: the file has {tflite_macs(data)} MACs, the module {macs}: a part was folded away")
    difference = _difference(data, given.numpy(), expected)
    if not difference <= TOLERANCE:
        raise ExportError(f"{name}: the file's output differs from the module's by {difference:.1e} (relative)")
    if name in TIMM:
        for precision, made in candidates(data).items():
            (folder / f"{precision}.tflite").write_bytes(made)
    facts = {"macs": macs, "zero_scales": zeros, "difference": difference, "seconds": round(seconds, 1)}
    (folder / FACTS).write_text(json.dumps(facts))


def _difference(data: bytes, given: Any, expected: Any) -> float:  # noqa: ANN401 - arrays of any shape
    """Relative l2 distance of the file's output on one input."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given)
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return float(np.linalg.norm(output - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    convert(sys.argv[1], Path(sys.argv[2]))
