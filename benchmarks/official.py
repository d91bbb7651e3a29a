"""The authors' code as a peer: its supernet, built from a checkout that the environment names.

`ELASTICVIT_OFFICIAL` is the folder of their project, the one that holds `models/`, or a folder above it.
Nothing of it is copied here, it is never put on the path, and of its dependency timm only the two small functions that
the model needs are stood in for when timm is not installed.
"""

import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import yaml
from torch import Tensor, nn

VARIABLE = "ELASTICVIT_OFFICIAL"
NOT_GIVEN = "not given"
_CONFIG = "configs/final_3min_space.yaml"
_PACKAGE = "elasticvit_official_models"
_STUBS = ("timm", "timm.utils", "timm.models", "timm.models.layers")


def official_path() -> Path | None:
    """The checkout that the environment names, or none."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else None


def official_supernet(path: Path) -> nn.Module:
    """Their supernet (1000 classes, 40.5 M parameters) as their configuration builds it, in train mode.

    Their training loop turns dropout off, so it is off here.

    Raises:
        FileNotFoundError: `path` holds no checkout of their code.
    """
    root = _root(path)
    settings = _namespace(yaml.safe_load((root / _CONFIG).read_text()))
    # Without tables on disk their code uses the smallest architectures of the configuration.
    settings.lib_dir = None
    models = _load(root)
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        supernet: nn.Module = models.build_supernet(settings)[0]
    supernet.head_dropout_prob = 0.0  # type: ignore[assignment]
    return supernet.train()


def set_arch(supernet: nn.Module, lists: Sequence[Any]) -> None:
    """Make the architecture of a 10-list (`Arch.to_moonlit()`) the active one."""
    supernet.set_arch(*lists)  # type: ignore[operator]


def compute_flops(supernet: nn.Module) -> float:
    """MFLOPs of the active architecture by their formula."""
    return float(supernet.compute_flops())  # type: ignore[operator]


def _root(path: Path) -> Path:
    for folder in (path, path / "ElasticViT"):
        if (folder / "models" / "model.py").is_file() and (folder / _CONFIG).is_file():
            return folder
    raise FileNotFoundError(f"{path} holds no checkout of the authors' code; {VARIABLE} names the folder of models/")


def _namespace(value: object) -> Any:  # noqa: ANN401
    """Mappings with string keys as namespaces, all the way down, as their code reads its settings."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return SimpleNamespace(**{key: _namespace(part) for key, part in value.items()})
    return value


def _load(root: Path) -> ModuleType:
    """Their package `models` under a name of our own; modules, path and recursion limit stay as they were."""
    spec = spec_from_file_location(
        _PACKAGE, root / "models" / "__init__.py", submodule_search_locations=[str(root / "models")]
    )
    assert spec is not None and spec.loader is not None
    module, limit = module_from_spec(spec), sys.getrecursionlimit()
    sys.modules[_PACKAGE] = module
    try:
        with _timm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec.loader.exec_module(module)
    finally:
        sys.setrecursionlimit(limit)
        for name in [name for name in sys.modules if name.split(".")[0] == _PACKAGE]:
            del sys.modules[name]
    return module


@contextmanager
def _timm() -> Iterator[None]:
    """timm, or modules that stand in for what their model imports from it."""
    try:
        importlib.import_module("timm.models.layers")
    except ImportError:
        stubs = {name: ModuleType(name) for name in _STUBS}
        vars(stubs["timm.utils"])["reduce_tensor"] = _unused
        vars(stubs["timm.models.layers"])["trunc_normal_"] = _trunc_normal
        sys.modules.update(stubs)
        try:
            yield
        finally:
            for name in _STUBS:
                sys.modules.pop(name, None)
    else:
        yield


def _trunc_normal(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return torch.nn.init.trunc_normal_(tensor, mean, std)


def _unused(tensor: Tensor, world_size: int) -> Tensor:
    raise RuntimeError("their averaging over processes was called, which no comparison here does")
