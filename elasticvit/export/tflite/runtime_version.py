"""Which release of the runtime first had every operator of a file.

Facts from LiteRT's table of operator versions (`versioning/runtime_version.cc`), for the operators that we write.
"""

from collections.abc import Iterable

_RELEASES: dict[str, dict[int, str]] = {
    "ADD": {1: "1.5.0", 2: "1.14.0"},
    "AVERAGE_POOL_2D": {1: "1.5.0", 2: "1.14.0"},
    "BATCH_MATMUL": {1: "2.3.0", 2: "2.3.0", 3: "2.4.0", 4: "2.5.0"},
    "CONV_2D": {1: "1.5.0", 2: "1.14.0", 3: "1.14.0", 4: "2.3.0", 5: "2.4.0", 6: "2.9.0"},
    "DEPTHWISE_CONV_2D": {1: "1.5.0", 2: "1.12.0", 3: "1.14.0", 4: "2.2.0", 5: "2.3.0", 6: "2.3.0"},
    "DEQUANTIZE": {1: "1.13.1", 2: "1.14.0", 3: "1.15.0", 4: "2.2.0", 5: "2.7.0"},
    "FULLY_CONNECTED": {
        **{1: "1.5.0", 2: "1.10.0", 3: "1.14.0", 4: "1.14.0", 5: "2.0.0", 6: "2.1.0", 7: "2.3.0", 8: "2.3.0"},
        **{9: "2.3.0", 10: "2.11.0", 11: "2.15.0", 12: "2.17.0"},
    },
    "HARD_SWISH": {1: "1.15.0"},
    "MEAN": {1: "1.6.0", 2: "1.14.0"},
    "MUL": {1: "1.5.0", 2: "1.14.0", 3: "1.15.0"},
    "PAD": {1: "1.5.0", 2: "1.14.0"},
    "QUANTIZE": {1: "1.14.0", 2: "1.15.0"},
    "RESHAPE": {1: "1.5.0"},
    "RSQRT": {1: "1.10.0", 2: "2.5.0"},
    "SOFTMAX": {1: "1.5.0", 2: "1.14.0"},
    "SPLIT": {1: "1.5.0", 2: "1.14.0", 3: "1.14.0"},
    "SUB": {1: "1.6.0", 2: "1.14.0"},
    "TRANSPOSE": {1: "1.6.0", 2: "1.14.0"},
}


def min_runtime_version(operators: Iterable[tuple[str, int]]) -> str | None:
    """The release, as "2.3.0", for operators by builtin name and version; None where one is not in the table."""
    releases = [_RELEASES.get(name, {}).get(version) for name, version in operators]
    known = [release for release in releases if release is not None]
    if not known or len(known) < len(releases):
        return None
    return max(known, key=lambda release: tuple(map(int, release.split("."))))
