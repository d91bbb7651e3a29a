"""Image files of all kinds, written by tests; shared by the tests of the readers."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def image(number: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """A picture (width, height) unlike every other number's."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.NEAREST)


def encoded(picture: Image.Image, kind: str = "png", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def image_folder(folder: Path, per_class: int = 10, classes: Iterable[str] = ("ant", "bee"), start: int = 0) -> Path:
    """A folder for every class; images are numbered from `start`."""
    for i, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for j in range(per_class):
            (folder / name / f"{j:03}.png").write_bytes(encoded(image(start + i * per_class + j)))
    return folder


def parquet(
    file: Path, labels: list[int] | list[str], *, names: list[str] | None = None, column: str = "label", start: int = 0
) -> Path:
    """A file as Hugging Face writes it; images are numbered from `start`."""
    rows = [{"bytes": encoded(image(start + i)), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": rows, column: labels})
    if names:
        features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=3)
    return file


def shard(file: Path, samples: Iterable[dict[str, bytes]]) -> Path:
    """Tar shard; a sample is its files' contents by suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for i, sample in enumerate(samples):
            for suffix, content in sample.items():
                about = tarfile.TarInfo(f"{i:06}.{suffix}")
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    return file
