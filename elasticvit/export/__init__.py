"""A network as a file that phones run.

`graph` says what is computed, `fold` gets there from a `Net`, `tflite` writes it, `check` compares the file with torch,
`manifest` describes it, and `api` puts them together: `export_net(net, card)`, then `write_export(exported, path)`.
"""

from elasticvit.export.api import Exported, anchor, export_net, manifest_path, write_export
from elasticvit.export.manifest import Manifest
from elasticvit.export.randomnet import random_net
from elasticvit.export.tflite import TfliteOp

__all__ = ["Exported", "Manifest", "TfliteOp", "anchor", "export_net", "manifest_path", "random_net", "write_export"]
