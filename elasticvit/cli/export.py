"""The command that writes a network as a file. `app` is mounted among the commands that need no server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elasticvit.cli.arguments import Trained, find_arch, trained
from elasticvit.cli.console import EXIT_USAGE, ArchOption, OutOption, SupernetOption, end, errors, say
from elasticvit.export.file_kinds import Converter, Format
from elasticvit.export.input_form import InputKind
from elasticvit.export.precision import Precision
from elasticvit.hashing import file_sha256

if TYPE_CHECKING:  # torch is loaded by the commands that need it
    from elasticvit.export import Exported, Manifest
    from elasticvit.export.quantize.recipe import QuantizationRecipe
    from elasticvit.nn.net import Net
    from elasticvit.nn.supernet_file import Card

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def export(
    arch: ArchOption,
    out: OutOption,
    supernet: SupernetOption = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Export random weights, to time a network that was not trained.")
    ] = False,
    precision: Annotated[
        Precision, typer.Option("--precision", help="The precision of a tflite file.")
    ] = Precision.FLOAT32,
    kind: Annotated[
        Format, typer.Option("--format", help="The kind of file. onnx and pt2 take images in NCHW, tflite in NHWC.")
    ] = Format.TFLITE,
    converter: Annotated[
        Converter,
        typer.Option(
            "--converter", help="What writes a float32 tflite file: our writer, or litert-torch in half a minute."
        ),
    ] = Converter.DIRECT,
    form: Annotated[
        InputKind,
        typer.Option("--input", help="What a tflite file takes: normalised floats, pixels as floats, or bytes."),
    ] = InputKind.NORMALISED,
    max_accuracy_drop: Annotated[
        float,
        typer.Option("--max-accuracy-drop", min=0, max=1, help="Largest loss of top-1 by the precision: 0.01 is 1 %."),
    ] = 0.01,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe", help="For dynamic_int8: a file that `elasticvit recipe` wrote. Default: the recipe that ships."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random weights.")] = 0,
) -> None:
    """Write a model that devices run, checked against torch, and its manifest beside it."""
    wrong = _refusal(precision, kind, converter, form)
    if recipe is not None and precision is not Precision.DYNAMIC_INT8:
        wrong = "--recipe is for --precision dynamic_int8"
    if random_weights == (supernet is not None):
        wrong = "give either --supernet FILE or --random-weights"
    if wrong is not None:
        end(wrong, EXIT_USAGE)
    with errors():
        from elasticvit.atomic import check_out
        from elasticvit.export.quantize.recipe import load_recipe

        named = None if arch.lstrip()[:1] in ("{", "[") else Path(arch)
        check_out(out, [file for file in (supernet, recipe, named) if file is not None])
        chosen = None if recipe is None else load_recipe(recipe)
        if supernet is None:
            from elasticvit.export import export_net
            from elasticvit.nn.random_net import random_net

            net, card = random_net(find_arch(arch), seed), None
            exported = export_net(net, card, precision=precision, recipe=chosen, input=form)
        else:
            subnet = trained(arch, supernet)
            net, card = subnet.net, subnet.supernet.card
            exported = _exported(subnet, supernet, precision, chosen, form, max_accuracy_drop)
        _say(_write(net, card, exported, kind, converter, out), out)


def _exported(
    subnet: Trained,
    supernet: Path,
    precision: Precision,
    recipe: "QuantizationRecipe | None",
    form: InputKind,
    max_accuracy_drop: float,
) -> "Exported":
    from elasticvit.export import export_net
    from elasticvit.export.quantize.calibration_set import calibration_set_of

    return export_net(
        subnet.net,
        subnet.supernet.card,
        supernet_sha256=file_sha256(supernet),
        accuracy=subnet.accuracy,
        precision=precision,
        recipe=recipe,
        calibration_set=None if precision is Precision.FLOAT32 else calibration_set_of(subnet.supernet, subnet.data),
        max_accuracy_drop=max_accuracy_drop,
        input=form,
    )


def _refusal(precision: Precision, kind: Format, converter: Converter, form: InputKind) -> str | None:
    """Why these options cannot be combined; None if they can."""
    quantised, other = precision is not Precision.FLOAT32, kind is not Format.TFLITE
    indirect = converter is not Converter.DIRECT
    rules = [
        (quantised and other, f"--format {kind} is float32 only; --precision {precision} needs --format tflite"),
        (quantised and indirect, f"--converter {converter} is float32 only; {precision} needs --converter direct"),
        (indirect and other, f"--converter {converter} writes tflite only; leave it out for --format {kind}"),
        (form is not InputKind.NORMALISED and other, f"--format {kind} takes --input normalised only, not {form}"),
        (form is InputKind.UINT8 and indirect, f"--converter {converter} takes no bytes; use --converter direct"),
    ]
    return next((message for broken, message in rules if broken), None)


def _write(
    net: "Net", card: "Card | None", exported: "Exported", kind: Format, converter: Converter, out: Path
) -> "Manifest":
    """Write the file and its manifest; returns the manifest."""
    from elasticvit.export import write_export

    if kind is Format.TFLITE and converter is Converter.DIRECT:
        write_export(exported, out)
        return exported.manifest
    # Half a second more, which only these need.
    from elasticvit.export.converters.convert import by_litert_torch, other_file, other_manifest, write_other

    if kind is Format.TFLITE:
        converted = by_litert_torch(net, exported)
        write_export(converted, out)
        return converted.manifest
    file = other_file(net, card, kind)
    manifest = other_manifest(exported.manifest, file)
    write_other(file, manifest, out)
    return manifest


def _say(manifest: "Manifest", out: Path) -> None:
    from elasticvit.export import manifest_path

    shown = {"arch_id", "macs", "params", "precision", "accuracy", "top1_change", "size_bytes", "sha256"}
    summary = manifest.model_dump(mode="json", include=shown)
    say(summary | {"file": str(out), "manifest": str(manifest_path(out))})
