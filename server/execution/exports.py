"""From an architecture to a stored model: extract, recalibrate, evaluate, write, check, keep."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from elasticvit.accuracy import calibrated
from elasticvit.arch import Arch
from elasticvit.export.api import Exported, export_net
from elasticvit.flops import macs, params
from server.execution.stock import AtHand
from server.services import models
from server.services.models import Source
from server.tables import Model
from server.task import Compute
from server.wire import Accuracy


def export_subnet(compute: Compute, at_hand: AtHand, arch: Arch, source: Source) -> Model:
    """Export one sub-network with recalibrated norms and what is known of its accuracy, checked against torch.

    Raises:
        SpaceError, DataError, ExportError, DiskFull, ReadOnlyHome.
    """
    net = calibrated(at_hand.net, arch, at_hand.images)
    accuracy = at_hand.judge(net)
    exported = export_net(
        net,
        at_hand.net.card,
        supernet_sha256=at_hand.sha256,
        accuracy=accuracy.value,
        accuracy_source=accuracy.source or "measured",
    )
    return keep(compute, exported, at_hand, net.arch, source, accuracy)


def export_for_timing(compute: Compute, at_hand: AtHand, arch: Arch) -> tuple[Model, Exported]:
    """Export a sub-network as it is cut, for its latency only: norms and accuracy do not change what it does."""
    net = at_hand.net.extract(arch)
    exported = export_net(net, at_hand.net.card, supernet_sha256=at_hand.sha256)
    return keep(compute, exported, at_hand, net.arch, "calibration", Accuracy()), exported


def keep(
    compute: Compute, exported: Exported, at_hand: AtHand, arch: Arch, source: Source, accuracy: Accuracy
) -> Model:
    """Store the file and its row; the same bytes twice are one model."""
    with compute.database.write() as session:
        return models.store(
            session,
            compute.blobs,
            file=exported.tflite,
            source=source,
            now=compute.clock(),
            manifest=json.loads(exported.manifest.to_json()),
            precision="float32",
            arch=arch_object(arch),
            arch_id=arch.id,
            macs=macs(arch),
            params=params(arch),
            accuracy=accuracy,
            supernet=at_hand.name,
        )


def arch_object(arch: Arch) -> dict[str, Any]:
    """The canonical JSON, parsed."""
    value: dict[str, Any] = json.loads(arch.to_json())
    return value


def adopted(at_hand: AtHand, arch: Arch) -> Arch:
    """The same body with the supernet's head."""
    return replace(arch, hidden=at_hand.space.hidden, classes=at_hand.space.classes)
