"""The command that prints the metadata of a .tflite file."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elasticvit.cli.console import EXIT_USAGE, end, say
from elasticvit.errors import ExportError

if TYPE_CHECKING:
    from elasticvit.export.tflite.metadata import FileMetadata

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def describe(file: Annotated[Path, typer.Argument(help="A .tflite file, written by this package or another.")]) -> None:
    """Print the metadata of a .tflite file as JSON: input, classes, architecture, accuracy, latency, terms."""
    try:
        description = described(file.read_bytes())
    except ExportError as error:
        end(f"{file}: {error}", EXIT_USAGE)
    except OSError as error:
        end(str(error), EXIT_USAGE)
    say(description)


def described(data: bytes) -> dict[str, Any]:
    """The metadata of a file as JSON values; a field is None if the file does not have it.

    `unread_labels` says why `labels` is None although the file has class names.
    `normalisation` is what a caller applies to pixels from 0 to 255, `(pixel - mean) / std` per channel.

    Raises:
        ExportError: the bytes are no .tflite file, or are damaged.
    """
    # Loaded when the command runs: all commands are mounted by one script.
    from elasticvit.export.manifest import Description
    from elasticvit.export.tflite.metadata import read_metadata

    metadata = read_metadata(data)
    standard, ours = metadata.standard or {}, metadata.description
    answer: dict[str, Any] = {
        name: standard.get(name) for name in ("name", "description", "version", "author", "license")
    }
    answer |= {"inputs": [asdict(tensor) for tensor in metadata.inputs]}
    answer |= {"outputs": [asdict(tensor) for tensor in metadata.outputs]}
    answer |= {"normalisation": _normalisation(metadata)}
    answer |= {"labels": metadata.labels, "unread_labels": metadata.unread_labels}
    answer |= {"min_runtime_version": metadata.min_runtime_version}
    rest = ours.model_dump(mode="json") if ours else dict.fromkeys(Description.model_fields)
    return answer | {name: value for name, value in rest.items() if name not in ("input", "output")}


def _normalisation(metadata: "FileMetadata") -> dict[str, Any] | None:
    graphs = (metadata.standard or {}).get("subgraph_metadata", [])
    tensors = graphs[0].get("input_tensor_metadata", []) if graphs else []
    units = tensors[0].get("process_units", []) if tensors else []
    return next((unit["normalization"] for unit in units if "normalization" in unit), None)
