"""Networks from outside that a supernet learns from, out of files.

They get images as the supernet gets them: scaled by the data's mean and standard deviation, at the data's size.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from elasticvit.accuracy import RECALIBRATION_IMAGES, recalibrate
from elasticvit.arch import Arch
from elasticvit.errors import ArchError, DataError, SupernetFileError
from elasticvit.export.netfile import FORMAT as NET_FORMAT
from elasticvit.nn.files import load_supernet
from elasticvit.nn.net import Net
from elasticvit.training.data import ImageSet
from elasticvit.training.losses import Teacher


def load_teacher(path: Path, data: ImageSet, device: torch.device) -> Teacher:
    """A teacher in eval mode on a device.

    Args:
        path: a supernet file (its largest network, recalibrated on the data's training images), a network file of
            `elasticvit extract`, TorchScript (.pt), or an exported program (.pt2); the last two hold code, so they
            must come from someone you trust.

    Raises:
        DataError: no such file, none of these, or its classes are not the data's.
    """
    if not path.is_file():
        raise DataError(f"no teacher file {path}")
    try:
        teacher = _load(path, data, device)
        answers = teacher(data.scaled(data.train.images[:2]).to(device))
    except DataError:
        raise
    except Exception as error:  # a foreign file may fail in any way
        raise DataError(f"{path} is no teacher that can be used: {error}") from error
    if tuple(answers.shape) != (2, len(data.class_names)):
        raise DataError(f"{path} answers {tuple(answers.shape)} to 2 images of {len(data.class_names)} classes")
    return teacher


def _load(path: Path, data: ImageSet, device: torch.device) -> Callable[[Tensor], Tensor]:
    if path.suffix == ".pt2":
        return torch.export.load(path).module().to(device)
    if path.suffix != ".safetensors":
        script: nn.Module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
        return script.eval()
    net = _of_net_file(path)
    if net is None:
        supernet = load_supernet(path)
        net = supernet.extract(supernet.space.largest())
        recalibrate(net, data.scaled(data.train.images[:RECALIBRATION_IMAGES]))
    return net.to(device).eval()


def _of_net_file(path: Path) -> Net | None:
    """The network of a file that `elasticvit extract` wrote; None for other safetensors files."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != NET_FORMAT:
                return None
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        with torch.device("meta"):
            net = Net(Arch.from_json(json.loads(header["arch"])))
        net.load_state_dict(state, assign=True)
    except (SafetensorError, KeyError, ArchError, RuntimeError) as error:
        raise SupernetFileError(f"{path} is no network file: {error}") from error
    return net
