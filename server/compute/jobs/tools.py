"""What compute jobs work with besides their task."""

from __future__ import annotations

from dataclasses import dataclass

from server.compute.exporting.order import Exporter
from server.compute.supernet_cache import SupernetCache


@dataclass(frozen=True)
class Tools:
    """One for a whole worker, in all its threads. `exporter` writes models, often and fast; `converter` writes other
    formats, rarely and slowly."""

    supernets: SupernetCache
    exporter: Exporter
    converter: Exporter
