"""The networks that this package's files are timed against, as torch modules whose weights cannot be folded away.

timm and the half of torchvision that it needs lie in a folder of their own, which `ELASTICVIT_PEERS` names (`make
bench` makes it): torchvision's compiled half does not load beside the CPU build of torch, and nothing else needs them.

Freshly built networks are not what they seem: timm starts 20 norms of LeViT with a scale of zero, the authors' code
those of every block with stride 1, and a converter then folds whole branches away (LeViT keeps 103 of 305 MMACs).
So norms get random scales here, and what is all zeros random numbers, and the file's MACs are held against torch's.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.official import official_path, official_supernet, set_arch
from elasticvit.archs.published import published

VARIABLE = "ELASTICVIT_PEERS"
TIMM = {"MobileNetV3-Large": "mobilenetv3_large_100", "EfficientNet-B0": "efficientnet_b0", "LeViT-128S": "levit_128s"}
NAIVE = "naive S1"
_SIDE, _NAIVE_ARCH = 224, "S1"
# What torchvision's compiled half would declare; its Python half registers kernels for these as it is imported.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width,"
    " int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width) -> (Tensor, Tensor)",
)
_declared: list[torch.library.Library] = []
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def peers_path() -> Path | None:
    """The folder that the environment names, or none."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else None


def timm_model(name: str) -> nn.Module:
    """A network of `TIMM` at 224 × 224 and 1000 classes, in eval mode, as timm builds it.

    Raises:
        FileNotFoundError: `ELASTICVIT_PEERS` names no folder with timm.
    """
    path = peers_path()
    if path is None or not (path / "timm").is_dir():
        raise FileNotFoundError(f"{VARIABLE} is to name a folder with timm and torchvision, got {path}; see make bench")
    if not _declared:
        # Operators stay declared as long as this object lives.
        _declared.append(torch.library.Library("torchvision", "DEF"))  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            _declared[0].define(schema)  # type: ignore[no-untyped-call]
        sys.path.append(str(path.resolve()))
    timm: Any = importlib.import_module("timm")
    model: nn.Module = timm.create_model(TIMM[name], pretrained=False)
    return model.eval()


def naive_s1() -> nn.Module:
    """The authors' supernet as it is, set to S1, in eval mode.

    Raises:
        FileNotFoundError: `ELASTICVIT_OFFICIAL` names no checkout of their code.
    """
    path = official_path()
    if path is None:
        raise FileNotFoundError("ELASTICVIT_OFFICIAL is to name a checkout of the authors' code")
    supernet = official_supernet(path)
    set_arch(supernet, published(_NAIVE_ARCH).to_moonlit())
    return supernet.eval()


def peer(name: str, seed: int = 0) -> tuple[nn.Module, Tensor, int]:
    """The named network, made fit to be timed, an input (1, 3, side, side), and how many scales were zero before."""
    model = naive_s1() if name == NAIVE else timm_model(name)
    side = published(_NAIVE_ARCH).resolution if name == NAIVE else _SIDE
    zeros = zero_scales(model)
    randomise(model, seed)
    return model, torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1, zeros


def zero_scales(model: nn.Module) -> int:
    """How many norms would wipe out what they normalise."""
    return sum(isinstance(m, _NORMS) and m.weight is not None and not m.weight.any() for m in model.modules())


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Random scales, shifts and statistics for norms, and random numbers where a parameter is all zeros.

    The second is about biases and tables of position biases: adding zero is folded away as well.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _NORMS):
                for tensor in (module.weight, getattr(module, "running_var", None)):
                    if tensor is not None:
                        tensor.uniform_(0.5, 1.5, generator=rng)
                for tensor in (module.bias, getattr(module, "running_mean", None)):
                    if tensor is not None:
                        tensor.uniform_(-0.2, 0.2, generator=rng)
        for parameter in model.parameters():
            if not parameter.any():
                parameter.uniform_(-0.2, 0.2, generator=rng)


def torch_macs(model: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of convolutions and matrix products as torch counts them while the network runs."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2
