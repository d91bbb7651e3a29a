"""The model card: a manifest as a page for people, with the front matter that model hubs read.

Markdown; the front matter is YAML, its values written as JSON, which YAML includes. Nothing here imports torch, and
nothing depends on when or where the card is written.
"""

import json
from collections.abc import Sequence
from typing import Any

from elasticvit.accuracy.words import in_words, interval_in_words
from elasticvit.errors import ExportError
from elasticvit.export.input_form import InputKind
from elasticvit.export.manifest import AccuracyInfo, Latency, Manifest
from elasticvit.export.precision import Precision

_SCALING = {
    InputKind.NORMALISED: "image = ((pixels / 255 - {mean}) / {std}).astype(np.float32)",
    InputKind.PIXELS: "image = pixels.astype(np.float32)  # 0 to 255: the file normalises",
    InputKind.UINT8: "image = pixels  # bytes: the file normalises",
}
_SNIPPET = """\
{imports}import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
pixels = np.asarray(ImageOps.fit(photo, ({side}, {side}), Image.Resampling.BICUBIC))
{scaling}
classify = Interpreter({file}, num_threads=1).get_signature_runner("serving_default")
logits = classify({input}=image[None])["{output}"][0]
best = int(logits.argmax())
"""
_NAMES = """\
print(zipfile.ZipFile({file}).read("labels.txt").decode().splitlines()[best])
"""


def model_card(manifest: Manifest, file: str = "model.tflite", other_precisions: Sequence[Manifest] = ()) -> str:
    """The card of a model as Markdown.

    Args:
        file: what the snippet calls the file.
        other_precisions: manifests of the same network for a table of all precisions.

    Raises:
        ExportError: the manifest is of a file that is no .tflite.
    """
    if manifest.format != "tflite":
        raise ExportError(f"there are cards of .tflite files only, and this manifest is of {manifest.format}")
    sections = [
        _front_matter(manifest),
        f"# ElasticViT {manifest.arch_id}, {manifest.precision}",
        _what(manifest),
        f"## Use\n\n{_input(manifest)}\n\n```python\n{_snippet(manifest, file)}```",
        f"## Accuracy\n\n{_accuracy(manifest)}",
        f"## Latency\n\n{_latency(manifest.latency)}",
        f"## Precisions\n\n{_precisions([manifest, *other_precisions])}" if other_precisions else None,
        f"## Where it is from\n\n{_provenance(manifest)}",
        f"## Terms\n\n{manifest.terms or 'Its supernet states none.'}",
        f"## Limits\n\n{_limits(manifest)}",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(manifest: Manifest) -> str:
    fields: dict[str, Any] = {
        "library_name": "litert",
        "pipeline_tag": "image-classification",
        "license": "other" if manifest.terms else "unknown",
    }
    if manifest.terms:
        fields["license_name"] = "terms-of-the-training-images"
    fields["tags"] = ["elasticvit", "litert", "tflite", "image-classification", str(manifest.precision)]
    data = manifest.supernet.data if manifest.supernet else None
    if data:
        fields["datasets"] = [data]
    if data and manifest.accuracy is not None and _is_measured(manifest, manifest.accuracy):
        fields["model-index"] = [_result(manifest, data, manifest.accuracy)]
    lines = (f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    return "\n".join(["---", *lines, "---"])


def _is_measured(manifest: Manifest, accuracy: AccuracyInfo) -> bool:
    """Whether the top-1 of this very file was measured on images that chose nothing: hubs show it as a result."""
    change = manifest.top1_change
    in_this_precision = manifest.precision is Precision.FLOAT32 or (
        change and change.source.startswith("measured") and change.independent
    )
    return accuracy.source == "measured" and accuracy.independent is True and bool(in_this_precision)


def _result(manifest: Manifest, data: str, accuracy: AccuracyInfo) -> dict[str, Any]:
    task = "image-classification"
    metric = {"type": "accuracy", "name": "Top-1", "value": _in_this_precision(manifest, accuracy)}
    result = {"task": {"type": task}, "dataset": {"name": data, "type": data}, "metrics": [metric]}
    return {"name": f"elasticvit-{manifest.arch_id}", "results": [result]}


def _in_this_precision(manifest: Manifest, accuracy: AccuracyInfo) -> float:
    change = manifest.top1_change
    return round(accuracy.value + (change.value if change else 0.0), 6)


def _what(manifest: Manifest) -> str:
    side, classes = manifest.input.shape[1], manifest.output.classes
    size = f"{manifest.macs / 1e6:.1f} million multiply-accumulates, {manifest.params / 1e6:.2f} million parameters"
    text = f"Classifies {side}×{side} images into {classes} classes. {size}, a file of"
    text += f" {manifest.size_bytes / 1e6:.2f} MB (sha256 `{manifest.sha256}`)."
    text += " The file says all this of itself, too: `elasticvit describe FILE`."
    if manifest.supernet is None:
        text += "\n\n**Its weights are random: it is for timing, and what it answers means nothing.**"
    if manifest.output.names:
        shown = ", ".join(manifest.output.names[:20])
        text += f"\n\nClasses: {shown}{' and more (in the file)' if classes > 20 else ''}."
    return text


def _input(manifest: Manifest) -> str:
    low, high = manifest.input.range
    image = manifest.input
    return (
        f"Input `{image.name}`: {image.dtype} {list(image.shape)}, channels last, red, green, blue, from {low:g} to"
        f" {high:g}. Output `{manifest.output.name}`: a logit for each class, float32 {[1, manifest.output.classes]}."
    )


def _snippet(manifest: Manifest, file: str) -> str:
    image = manifest.input
    scaling = _SCALING[image.kind].format(mean=list(image.mean), std=list(image.std))
    named = manifest.output.names is not None
    return (_SNIPPET + (_NAMES if named else "")).format(
        imports="import zipfile\n\n" if named else "",
        file=json.dumps(file),
        scaling=scaling,
        side=image.shape[1],
        input=image.name,
        output=manifest.output.name,
    )


def _accuracy(manifest: Manifest) -> str:
    accuracy, change = manifest.accuracy, manifest.top1_change
    if accuracy is None:
        return "Not known."
    in_float32 = "" if manifest.precision is Precision.FLOAT32 else " in float32"
    text = f"Top-1 {accuracy.value:.1%}{in_float32}, {in_words(accuracy)}."
    if change is not None:
        interval = interval_in_words(change.lower, change.upper, "points")
        text += f" In {manifest.precision} it moves by {100 * change.value:+.2f} points{interval}, {change.source}"
        text += f" ({change.images:,} images)."
    elif manifest.precision is not Precision.FLOAT32:
        text += f" What {manifest.precision} changes was not measured."
    return text


def _latency(latency: Sequence[Latency]) -> str:
    if not latency:
        return "None is stated: measure it on your device."
    head = "Milliseconds for one image; each holds on that device under that profile and on no other.\n\n"
    head += "| device | profile | of | predicted | interval | measured |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(_latency_row(one) for one in latency)


def _latency_row(one: Latency) -> str:
    interval = "–"
    if one.lower_ms is not None and one.upper_ms is not None:
        interval = f"{one.lower_ms:.3f} to {one.upper_ms:.3f}"
        interval += f" ({one.confidence:.0%} confidence)" if one.confidence is not None else ""
    cells = (one.device, one.profile or "–", one.statistic, _ms(one.predicted_ms), interval, _ms(one.measured_ms))
    return f"| {' | '.join(cells)} |"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _precisions(manifests: Sequence[Manifest]) -> str:
    head = "| precision | MB | top-1 change, points | measured |\n|---|---|---|---|\n"
    return head + "\n".join(_precision_row(manifest) for manifest in manifests)


def _precision_row(manifest: Manifest) -> str:
    change = manifest.top1_change
    moved = "–" if change is None else f"{100 * change.value:+.2f}"
    if manifest.precision is Precision.FLOAT32:
        moved = "0"
    medians = (one for one in manifest.latency if one.statistic == "p50")
    times = [f"{one.measured_ms:.3f} ms on {one.device}" for one in medians if one.measured_ms is not None]
    return f"| {manifest.precision} | {manifest.size_bytes / 1e6:.2f} | {moved} | {', '.join(times) or '–'} |"


def _provenance(manifest: Manifest) -> str:
    supernet, recipe = manifest.supernet, manifest.recipe
    text = "Random weights."
    if supernet is not None:
        text = f"Cut out of the supernet `{supernet.name}`"
        text += f" (sha256 `{supernet.sha256}`)" if supernet.sha256 else ""
        text += f", which was trained on `{supernet.data}`." if supernet.data else "."
    text += " The method: [ElasticViT](https://arxiv.org/abs/2303.09730)."
    if recipe is not None:
        text += f" Quantised by the recipe `{recipe.name}`{f', version {recipe.version}' if recipe.version else ''}."
    versions = ", ".join(f"{name} {number}" for name, number in sorted(manifest.versions.items()))
    text += f" Written by {manifest.created_by} ({versions}); on seeded images the file's logits differ from torch's by"
    text += f" at most {manifest.max_relative_difference:.0e} (relative)."
    return f"{text}\n\nArchitecture: `{json.dumps(manifest.arch, sort_keys=True, separators=(',', ':'))}`"


def _limits(manifest: Manifest) -> str:
    side = manifest.input.shape[1]
    limits = [
        f"It sees {side}×{side} pixels, and every image gets one of its classes, also one that shows none of them.",
        "It is as biased as the images that it was trained on; whatever is unlike them is guessed.",
        "Logits are no calibrated probabilities.",
    ]
    if manifest.accuracy is not None and manifest.accuracy.source == "predicted":
        limits.append("Its accuracy is an estimate: evaluate it on your own images.")
    if manifest.accuracy is not None and not manifest.accuracy.independent:
        limits.append("Its accuracy is likely too good: evaluate it on images that neither trained nor chose it.")
    return "\n".join(f"- {limit}" for limit in limits)
