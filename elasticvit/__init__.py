"""One weight-shared supernet of mobile vision transformers, searched without retraining.

Start with archs.arch and archs.space, then costs, latency and search (none of which needs torch), nn.net and
nn.supernet, accuracy, export.graph and export.tflite, training.loop.
"""

from typing import TYPE_CHECKING, Any

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Space
from elasticvit.costs.flops import macs, paper_mflops, params

if TYPE_CHECKING:
    from elasticvit.nn.supernet_file import load_supernet

__all__ = ["Arch", "Space", "load_supernet", "macs", "paper_mflops", "params"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type of a module attribute
    # Loaded on first use: search and cost code must not pull in torch.
    if name == "load_supernet":
        from elasticvit.nn.supernet_file import load_supernet

        return load_supernet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
