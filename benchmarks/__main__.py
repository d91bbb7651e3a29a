"""Run every benchmark, or the named ones, and print their figures as JSON: `python -m benchmarks [NAME ...]`.

A name with a dot is a part of another benchmark, to be run alone.
"""

import json
import sys
from collections.abc import Callable

from benchmarks import (
    attention,
    correlation,
    export,
    latency,
    reported_accuracy,
    roofline,
    sampling,
    search,
    service_export,
    supernet,
    training,
)

BENCHMARKS: dict[str, Callable[[], dict[str, object]]] = {
    "export": export.figures,
    "export.times": export.times,
    "export.latency": latency.figures,
    "export.roofline": roofline.figures,
    "export.attention": attention.figures,
    "export.correlation": correlation.figures,
    "sampling": sampling.figures,
    "search": search.figures,
    "service_export": service_export.figures,
    "supernet": supernet.figures,
    "reported_accuracy": reported_accuracy.figures,
    "training": training.figures,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; the exit status."""
    if {"-h", "--help"} & {*names}:
        sys.stdout.write(f"{__doc__}\nNames: {', '.join(BENCHMARKS)}\n")
        return 0
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"there is no benchmark {unknown[0]!r}. Give one of: {', '.join(BENCHMARKS)}\n")
        return 2
    for name in names or [name for name in BENCHMARKS if "." not in name]:
        sys.stderr.write(f"{name} …\n")
        sys.stdout.write(json.dumps({name: BENCHMARKS[name]()}, indent=2) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
