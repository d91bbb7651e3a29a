"""An extracted network's weights as a safetensors file of their own, for use in torch."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError

from elasticvit.archs.arch import Arch
from elasticvit.atomic import write_atomically
from elasticvit.errors import ArchError, ExportError, SupernetFileError
from elasticvit.nn import tensorfile
from elasticvit.nn.net import Net
from elasticvit.nn.supernet_file import Card
from elasticvit.nn.supernet_header import open_safetensors

FORMAT = "elasticvit-net/1"


def write_net(net: Net, card: Card, out: Path) -> None:
    """Write the state dict of `Net(arch)`; the header holds format, arch (canonical JSON) and card.

    Raises:
        ExportError: the disk refuses; nothing is left behind.
    """
    header = {"format": FORMAT, "arch": net.arch.to_json(), "card": card.to_json()}
    write_atomically(out, tensorfile.encode(net.state_dict(), header), error=ExportError)


def read_net(path: Path) -> tuple[Net, Card] | None:
    """The network and card of a file that `write_net` wrote; None for other safetensors files.

    Raises:
        SupernetFileError: the file is missing, cut off or damaged.
    """
    with open_safetensors(path, "pt") as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            return None
        try:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            with torch.device("meta"):
                net = Net(Arch.from_json(json.loads(header["arch"])))
            net.load_state_dict(state, assign=True)
            return net, Card.from_json(header["card"])
        except (SafetensorError, KeyError, ArchError, RuntimeError, TypeError, ValueError) as error:
            raise SupernetFileError(f"{path} is no network file: {error}") from error
