"""Files beside the code that others rely on: the compose file, the pinned versions, the Makefile's targets."""

import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.mark.medium
def test_compose_file_fits_the_compose_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}


def _wanted() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [line for group in groups for line in group if not line.startswith("elasticvit[")]


@pytest.mark.parametrize("requirement", sorted(set(_wanted())))
def test_every_dependency_is_pinned(requirement: str) -> None:
    name = re.sub(r"[-_.]+", "-", re.split(r"[\[<>=]", requirement)[0]).lower()
    assert name in _pins()


@pytest.mark.parametrize("image", ["server", "agent"])
def test_the_wheels_of_the_images_are_pinned_by_version_and_hash(image: str) -> None:
    text = (ROOT / "docker" / f"{image}.lock").read_text()
    entries = re.findall(
        r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)[^\n]*((?:\n    --hash=sha256:[0-9a-f]{64}[^\n]*)*)", text, re.MULTILINE
    )
    pins = _pins()
    assert len(entries) > 20
    assert {name: version for name, version, _ in entries if pins.get(name) != version} == {}
    assert all(hashes for _, _, hashes in entries)


def test_containers_are_hardened_and_have_no_default_password() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name, service in compose["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["mem_limit"], name
        assert not [key for key in service.get("environment", {}) if "PASSWORD" in key and not key.endswith("_FILE")], (
            name
        )
        assert "healthcheck" in service or service["restart"] == "no", name
    assert [volume.split(":")[0] for volume in compose["services"]["agent"]["volumes"]] == ["agent_token"]
    pinned = r"@sha256:[0-9a-f]{64}$"
    assert re.search(pinned, compose["services"]["database"]["image"])
    assert re.search(pinned, (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_what_is_installed_is_what_is_pinned() -> None:
    # Only the environment's own folder: setuptools puts copies of other packages on the path once it is imported.
    pins, installed = _pins(), metadata.distributions(path=[sysconfig.get_path("purelib")])
    wrong = {
        dist.name: (dist.version, pins[name])
        for dist in installed
        if (name := re.sub(r"[-_.]+", "-", dist.name).lower()) in pins and dist.version.split("+")[0] != pins[name]
    }
    assert wrong == {}


def test_agents_install_nothing_heavy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    light = " ".join(project["dependencies"] + project["optional-dependencies"]["host"])
    for heavy in ("torch", "sqlmodel", "fastapi", "numpy", "scikit"):
        assert heavy not in light


@pytest.mark.parametrize("target", ["setup", "run", "demo", "test", "check", "bench"])
def test_the_makefile_has_the_targets_of_the_contract(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
