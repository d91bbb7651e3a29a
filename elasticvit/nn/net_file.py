"""An extracted network's weights as a safetensors file of their own, for use in torch."""

from pathlib import Path

from elasticvit.atomic import write_atomically
from elasticvit.errors import ExportError
from elasticvit.nn import tensorfile
from elasticvit.nn.net import Net
from elasticvit.nn.supernet_file import Card

FORMAT = "elasticvit-net/1"


def write_net(net: Net, card: Card, out: Path) -> None:
    """Write the state dict of `Net(arch)`; the header holds format, arch (canonical JSON) and card.

    Raises:
        ExportError: the disk refuses; nothing is left behind.
    """
    header = {"format": FORMAT, "arch": net.arch.to_json(), "card": card.to_json()}
    write_atomically(out, tensorfile.encode(net.state_dict(), header), error=ExportError)
