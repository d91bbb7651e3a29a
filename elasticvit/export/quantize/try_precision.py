"""A graph in another precision, compared with its float32 file."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elasticvit.accuracy.intervals import newcombe_paired
from elasticvit.errors import ExportError
from elasticvit.export.graph.ops import Graph
from elasticvit.export.input_form import InputForm
from elasticvit.export.manifest import RecipeInfo, Top1Change
from elasticvit.export.precision import Precision
from elasticvit.export.quantize.calibration_set import CalibrationSet, HeldOut, as_taken, random_calibration_set
from elasticvit.export.quantize.recipe import QuantizationRecipe
from elasticvit.export.quantize.static_int8 import static_int8
from elasticvit.export.tflite.check import check_macs, load_tflite, run, run_tflite
from elasticvit.export.tflite.number_formats import FLOAT32, NumberFormats, dynamic_int8, float16
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.nn.supernet_file import Card

# Relative l2 distance of logits on calibration images, several times what was seen on any network: beyond these the
# file is broken and not merely coarse.
LARGEST_DIFFERENCE: Mapping[Precision, float] = {
    Precision.FLOAT16: 2e-2,
    Precision.DYNAMIC_INT8: 0.3,
    Precision.INT8: 0.5,
}
COMPARED = 16
_WHICH: Mapping[bool | None, str] = {
    True: "images that were used for no choice,",
    False: "images that also chose this network,",
    None: "images of which it is not known whether they also chose this network,",
}


@dataclass(frozen=True, eq=False, slots=True)
class Quantised:
    """A graph and the number formats of its values and weights."""

    graph: Graph
    number_formats: NumberFormats


@dataclass(frozen=True, eq=False, slots=True)
class CheckedGraph:
    """A graph in a precision, with the result of the comparison.

    Attributes:
        distance: the greatest relative l2 distance of its logits from float32's; None for float32.
        change: of top-1; None if it is not known.
    """

    graph: Graph
    number_formats: NumberFormats
    recipe: RecipeInfo | None = None
    distance: float | None = None
    change: Top1Change | None = None


def as_it_is(graph: Graph) -> CheckedGraph:
    """The graph in float32, with nothing to compare."""
    return CheckedGraph(graph, FLOAT32)


def try_precision(
    graph: Graph,
    exact: bytes,
    precision: Precision,
    recipe: QuantizationRecipe,
    calibration_set: CalibrationSet | None,
    card: Card | None,
    supernet_sha256: str | None,
    form: InputForm,
    max_accuracy_drop: float | None,
) -> CheckedGraph:
    """The graph in another precision, compared with its float32 file `exact`.

    Its change of top-1 is measured if there are held-out images. Otherwise it is the mean of other networks of the same
    supernet, if the recipe has them. Without a card the weights are random: they are calibrated and compared on noise.

    Args:
        card: None for random weights.
        supernet_sha256: of the file that the weights are from; None for random weights.
        max_accuracy_drop: the largest loss of top-1 that is allowed, a fraction (0 to 1); None allows any.

    Raises:
        ExportError: images are missing, the logits are too far off, or top-1 falls by more than allowed.
    """
    side = graph.arch.resolution
    if card is None:
        calibration_set = random_calibration_set(side)
    quantised = quantise(graph, precision, recipe, calibration_set, form)
    data = write_tflite(quantised.graph, number_formats=quantised.number_formats).data
    check_macs(data, graph.arch)
    distance = difference(exact, data, precision, side, calibration_set or random_calibration_set(side), form)
    change = None
    if calibration_set is not None and calibration_set.held_out is not None:
        change = top1_change(exact, data, side, calibration_set.held_out, form)
    elif supernet_sha256 is not None:
        change = _change_of_others(recipe, precision, supernet_sha256)
    if change is not None and max_accuracy_drop is not None and -change.value > max_accuracy_drop:
        raise ExportError(
            f"{precision} costs {-change.value:.2%} of top-1 ({change.source}), more than the {max_accuracy_drop:.2%}"
            " allowed; export another precision or allow more by max_accuracy_drop"
        )
    info = None
    if precision is Precision.DYNAMIC_INT8:
        info = RecipeInfo(name=recipe.name, version=str(recipe.version), sha256=recipe.sha256)
    return CheckedGraph(quantised.graph, quantised.number_formats, info, distance, change)


def _change_of_others(recipe: QuantizationRecipe, precision: Precision, supernet_sha256: str) -> Top1Change | None:
    drop = recipe.drop(precision)
    if drop is None or recipe.evaluated_on.get("sha256") != supernet_sha256:
        return None
    drops = [network for network in recipe.accuracy_drops if network.precision == precision]
    images = drops[0].images
    return Top1Change(
        value=-drop,
        images=images,
        source=f"mean of {len(drops)} other networks of {recipe.evaluated_on['supernet']} (recipe {recipe.id})",
        # The recipe says what becomes int8 in mixed int8 only: it was chosen on these images, the others were not.
        independent=False if precision is Precision.DYNAMIC_INT8 else None,
    )


def quantise(
    graph: Graph,
    precision: Precision,
    recipe: QuantizationRecipe | None,
    calibration_set: CalibrationSet | None,
    form: InputForm,
) -> Quantised:
    """The graph in that precision.

    Args:
        recipe: for dynamic_int8.
        calibration_set: for int8, whose calibration images show the ranges.
        form: of the graph's input.

    Raises:
        ExportError: a recipe or images are missing, or too few; or a weight is beyond float16.
    """
    match precision:
        case Precision.FLOAT32:
            return Quantised(graph, FLOAT32)
        case Precision.FLOAT16:
            return Quantised(graph, float16(graph))
        case Precision.DYNAMIC_INT8:
            if recipe is None:
                raise ExportError("dynamic_int8 needs a recipe that says which operators take int8 weights")
            number_formats = dynamic_int8(graph, frozenset(recipe.groups))
            if not number_formats.weights:
                raise ExportError(f"the recipe {recipe.id} names no group of this network's operators")
            return Quantised(graph, number_formats)
        case Precision.INT8:
            if calibration_set is None:
                raise ExportError(
                    "int8 needs images to see the range of every value, but this supernet carries no calibration"
                    " images and its training images are not available: make a file that carries some by `elasticvit"
                    " pack`"
                )
            images = as_taken(calibration_set.calibration.double(), graph.arch.resolution, form)
            return Quantised(*static_int8(graph, [image[None] for image in images]))


def difference(
    exact: bytes, data: bytes, precision: Precision, side: int, calibration_set: CalibrationSet, form: InputForm
) -> float:
    """The largest relative l2 distance of a file's logits from the float32 file's, over calibration images.

    An image near the decision boundary of two classes has logits near zero, of which any rounding is a large fraction.
    So a distance is too large only if it is also too large relative to the root mean square length of the logits over
    all images.

    Raises:
        ExportError: the distance is larger than this precision explains, or NaN.
    """
    images = as_taken(calibration_set.calibration[:COMPARED], side, form)
    before, after = run_tflite(exact, images), run_tflite(data, images)
    tiny = np.finfo(np.float32).tiny
    distances, lengths = np.linalg.norm(after - before, axis=1), np.linalg.norm(before, axis=1)
    relative = float(np.max(distances / np.maximum(lengths, tiny)))
    of_typical = float(np.max(distances) / max(float(np.sqrt(np.mean(np.square(lengths)))), tiny))
    limit = LARGEST_DIFFERENCE[precision]
    # Not `>`: NaN must fail as well.
    if not (relative <= limit or of_typical <= limit):
        raise ExportError(
            f"in {precision} the logits differ from float32's by {of_typical:.2g} of their typical length, above"
            f" {limit:g}: {precision} is too coarse for this network; export another precision. Nothing was written"
        )
    return relative


def top1_change(exact: bytes, data: bytes, side: int, held_out: HeldOut, form: InputForm) -> Top1Change:
    """A file's top-1 less the float32 file's on the same held-out images, with the interval of a paired difference."""
    before, after = is_right(exact, side, held_out, form), is_right(data, side, held_out, form)
    counts = [int(which.sum()) for which in (before & after, before & ~after, ~before & after, ~before & ~after)]
    lower, upper = newcombe_paired(*counts)
    return Top1Change(
        value=(counts[2] - counts[1]) / len(before),
        images=len(before),
        source=f"measured on {_WHICH[held_out.independent]} of {held_out.name}",
        lower=lower,
        upper=upper,
        independent=held_out.independent,
    )


def top1(data: bytes, side: int, held_out: HeldOut, form: InputForm) -> float:
    """The fraction of held-out images that a file classifies correctly. Raises `ExportError` if LiteRT refuses it."""
    return float(is_right(data, side, held_out, form).mean())


def is_right(data: bytes, side: int, held_out: HeldOut, form: InputForm) -> NDArray[np.bool_]:
    """For each held-out image whether a file classifies it correctly. Raises `ExportError` if LiteRT refuses it."""
    interpreter = load_tflite(data)
    answers = [run(interpreter, images).argmax(1) for images in held_out.batches(side, form)]
    right: NDArray[np.bool_] = np.concatenate(answers) == held_out.labels.numpy()
    return right
