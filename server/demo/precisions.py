"""One network in every precision: exported, and measured on this machine, through the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from server.wire import HOST
from server.wire.polling import finished_view

PRECISIONS = ("float32", "float16", "dynamic_int8", "int8")
PATIENCE_SECONDS = 180.0
POLL_SECONDS = 0.1
HEADING = "  precision      MB      ms   x float32   top-1 change                 XNNPACK takes"
Call = Callable[..., Any]


class PrecisionError(Exception):
    """A precision that must work failed; the message says which and why."""


def lines(call: Call, arch: dict[str, Any], supernet: str) -> Iterator[str]:
    """The rows of the table below `HEADING`, as they are measured; p50s are at the anchor's reference speed.

    A precision that is refused for this network has a row that says why. Raises PrecisionError when float32 is.
    """
    float32_ms: float | None = None
    for precision in PRECISIONS:
        exported = _done(call, call("POST", "/subnets", json=_body(arch, supernet, precision))["url"])
        if exported["error"] is not None:
            if precision == "float32":
                raise PrecisionError(f"float32 was not exported: {exported['error']['detail']}")
            yield f"  {precision:<12}   not exported: {exported['error']['detail']}"
            continue
        model = call("GET", exported["result"]["url"])
        session = _done(call, call("POST", "/jobs", json=_measure(model["id"]))["url"])
        if session["error"] is not None:
            raise PrecisionError(f"{precision} was not measured: {session['error']['detail']}")
        measured = call("GET", f"/measurements/{session['result']['measurement_id']}")
        p50_ms = measured["p50_ms"]
        float32_ms = float32_ms or p50_ms
        yield _row(model, p50_ms, p50_ms / float32_ms)


def _body(arch: dict[str, Any], supernet: str, precision: str) -> dict[str, Any]:
    # The row reports the loss of accuracy, so that none is refused.
    return {"arch": arch, "supernet": supernet, "precision": precision, "max_accuracy_drop": 1.0}


def _measure(model_id: str) -> dict[str, Any]:
    return {"kind": "measure", "model_id": model_id, "device": HOST}


def _row(model: dict[str, Any], p50_ms: float, ratio: float) -> str:
    manifest = model["manifest"]
    delegate = manifest["delegate"]["xnnpack"]
    taken = f"{delegate['delegated']} of {delegate['operators']} operators, in {delegate['partitions']} piece(s)"
    return (
        f"  {model['precision']:<12} {model['size_bytes'] / 1e6:5.2f}   {p50_ms:5.3f}   {ratio:9.2f}   "
        f"{_change(model['precision'], manifest['top1_change']):<26}   {taken}"
    )


def _change(precision: str, change: dict[str, Any] | None) -> str:
    if precision == "float32":
        return "-"
    if change is None:
        return "not known"
    where = "measured" if change["source"].startswith("measured") else "of other networks"
    return f"{change['value']:+.2%}, {where}"


def _done(call: Call, url: str) -> dict[str, Any]:
    """The finished job. Raises PrecisionError when it does not end."""
    try:
        return finished_view(lambda: call("GET", url), POLL_SECONDS, PATIENCE_SECONDS)
    except TimeoutError as error:
        raise PrecisionError(f"{url} did not end within {PATIENCE_SECONDS:g} s") from error
