"""What executions work with besides their task."""

from __future__ import annotations

from dataclasses import dataclass

from server.execution.stock import Stock
from server.exporting.order import Exporter


@dataclass(frozen=True)
class Tools:
    """`exporter` writes models, at any time and fast; `converter` other formats, rarely and slowly."""

    stock: Stock
    exporter: Exporter
    converter: Exporter
