"""A network as a file that devices run.

`graph` is what is computed, folded from a `Net`; `quantize` chooses number formats; `tflite` writes the file, checks it
against torch and puts metadata into it; `converters` make other formats; `manifest` and `model_card` describe the file.
`api` puts them together: `export_net(net, card)`, then `write_export(exported, path)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elasticvit.export.api import Exported, anchor, card_path, export_net, manifest_path, write_export
    from elasticvit.export.input_form import InputKind
    from elasticvit.export.manifest import Manifest
    from elasticvit.export.tflite.writer import TfliteOp

__all__ = [
    "Exported",
    "InputKind",
    "Manifest",
    "TfliteOp",
    "anchor",
    "card_path",
    "export_net",
    "manifest_path",
    "write_export",
]
_HOMES = {"InputKind": "input_form", "Manifest": "manifest", "TfliteOp": "tflite.writer"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type of a module attribute
    # Loaded on first use: reading a manifest or a file's metadata must not wait for torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"elasticvit.export.{_HOMES.get(name, 'api')}"), name)
