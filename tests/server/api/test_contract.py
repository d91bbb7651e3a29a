"""The API conforms to its own OpenAPI document: schemathesis, all its phases, against a real server on a socket."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.api import one_parser
from tests.server.server_farm import Farm, on_a_socket

REPOSITORY = Path(__file__).parents[3]
MAX_SECONDS = 80  # of each database; two together stay below three minutes
PATIENCE_SECONDS = 600
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
)
"""All but two: whether a valid body is accepted depends on what is stored, and there are no rights of single objects
between tokens of one role that a document could state."""


@pytest.mark.slow
def test_nothing_that_is_sent_breaks_the_contract(
    make_farm: Callable[..., Farm], database_url: str, tmp_path: Path
) -> None:
    farm = make_farm(database_url=database_url, convert_wait_seconds=0.2)
    farm.supernet()
    farm.predictor()
    farm.upload()
    with on_a_socket(farm) as url:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {farm.secret('admin')}", "--checks", ",".join(CHECKS)]
        command += ["--phases", "examples,coverage,fuzzing,stateful", "--max-time", str(MAX_SECONDS)]
        command += ["--request-timeout", "60", "--seed", "1", "--workers", "2", "--no-color", "--continue-on-failure"]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": one_parser.__name__, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert done.returncode == 0, _what_failed(done.stdout) + done.stderr[-2000:]


def _what_failed(report: str) -> str:
    """The report without its warnings; the failures and errors first, since the end of a message may be cut off."""
    sections = re.split(r"\n(?==+ [A-Z]+ =+\n)", report)
    wanted = [section for section in sections if re.match(r"=+ (ERRORS|FAILURES) =", section)]
    return "\n".join([*wanted, sections[-1]])[:20_000]
