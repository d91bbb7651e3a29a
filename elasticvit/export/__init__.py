"""A network as a file that phones run.

`graph` says what is computed, `fold` gets there from a `Net`, `tflite` writes it, `check` compares the file with torch,
`manifest` describes it, `metadata` says so in the file itself, and `api` puts them together: `export_net(net, card)`,
then `write_export(exported, path)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elasticvit.export.api import Exported, anchor, card_path, export_net, manifest_path, write_export
    from elasticvit.export.card_page import model_card
    from elasticvit.export.inputs import InputKind
    from elasticvit.export.manifest import Manifest
    from elasticvit.export.randomnet import random_net
    from elasticvit.export.tflite import TfliteOp

__all__ = [
    "Exported",
    "InputKind",
    "Manifest",
    "TfliteOp",
    "anchor",
    "card_path",
    "export_net",
    "manifest_path",
    "model_card",
    "random_net",
    "write_export",
]
_HOMES = {"InputKind": "inputs", "Manifest": "manifest", "TfliteOp": "tflite"}
_HOMES |= {"model_card": "card_page", "random_net": "randomnet"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type of a module attribute
    # Loaded on first use: whoever reads a manifest or a file's metadata must not wait for torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"elasticvit.export.{_HOMES.get(name, 'api')}"), name)
