"""What executions work with besides their task."""

from __future__ import annotations

from dataclasses import dataclass

from server.compute.exporting.order import Exporter
from server.compute.supernet_cache import SupernetCache


@dataclass(frozen=True)
class Tools:
    """`exporter` writes models, at any time and fast; `converter` other formats, rarely and slowly."""

    supernets: SupernetCache
    exporter: Exporter
    converter: Exporter
