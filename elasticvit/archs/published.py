"""The architectures that the paper publishes (supplement, Table 5), by name.

Every one is stage-wise: per stage width, depth, kernel or V scale, expansion or MLP ratio.
"""

from types import MappingProxyType

from elasticvit.archs.arch import Arch, ConvBlock, ConvStage, VitLayer, VitStage
from elasticvit.errors import ArchError

_Stage = tuple[int, int, int, int]


def _arch(resolution: int, stem: _Stage, conv: tuple[_Stage, _Stage], *vit: _Stage) -> Arch:
    a, b, c, d = (VitStage(width, (VitLayer(v, m),) * depth) for width, depth, v, m in vit)
    return Arch(resolution, _conv(stem), (_conv(conv[0]), _conv(conv[1])), (a, b, c, d))


def _conv(stage: _Stage) -> ConvStage:
    width, depth, kernel, expand = stage
    return ConvStage(width, (ConvBlock(kernel, expand),) * depth)


_STEM3, _STEM5 = (16, 1, 3, 1), (16, 1, 5, 1)
_MIN1 = _arch(128, _STEM3, ((16, 2, 3, 3), (16, 2, 3, 3)), (48, 1, 2, 2), (80, 1, 2, 2), (144, 1, 2, 2), (160, 1, 2, 2))

PUBLISHED = MappingProxyType(
    {
        "T0": _MIN1,
        "T1": _arch(
            128, _STEM3, ((24, 2, 3, 3), (32, 3, 3, 3)), (64, 1, 2, 2), (96, 1, 2, 2), (176, 1, 2, 3), (272, 1, 2, 4)
        ),
        "T2": _arch(
            160, _STEM3, ((24, 2, 3, 3), (40, 3, 3, 3)), (48, 1, 2, 3), (96, 1, 2, 4), (176, 2, 2, 3), (256, 2, 2, 2)
        ),
        "S1": _arch(
            192, _STEM3, ((24, 3, 3, 3), (40, 3, 3, 3)), (64, 2, 2, 2), (96, 2, 2, 2), (192, 2, 2, 3), (272, 2, 2, 4)
        ),
        "S2": _arch(
            224, _STEM3, ((24, 3, 3, 3), (48, 3, 3, 3)), (64, 2, 2, 2), (96, 2, 2, 2), (192, 2, 2, 2), (256, 2, 2, 4)
        ),
        "M": _arch(
            224, _STEM5, ((32, 3, 3, 3), (48, 5, 3, 3)), (64, 2, 2, 2), (96, 2, 2, 4), (192, 2, 2, 4), (288, 2, 2, 5)
        ),
        "L1": _arch(
            256, _STEM5, ((24, 3, 5, 3), (40, 3, 5, 6)), (64, 2, 2, 4), (96, 2, 2, 3), (192, 2, 2, 4), (320, 2, 2, 4)
        ),
        "L2": _arch(
            256, _STEM3, ((24, 3, 3, 6), (40, 4, 3, 6)), (80, 2, 2, 3), (128, 2, 2, 2), (256, 2, 2, 3), (304, 2, 3, 5)
        ),
        "L3": _arch(
            256, _STEM5, ((32, 3, 3, 5), (48, 4, 5, 5)), (80, 2, 2, 4), (128, 2, 2, 4), (256, 2, 2, 3), (320, 2, 2, 5)
        ),
        "min1": _MIN1,
        "min2": _arch(
            176, _STEM3, ((24, 3, 3, 3), (32, 3, 3, 3)), (48, 2, 2, 2), (96, 2, 2, 3), (176, 2, 2, 2), (224, 2, 2, 2)
        ),
        "min3": _arch(
            224, _STEM3, ((24, 3, 3, 3), (32, 3, 3, 3)), (64, 2, 2, 2), (96, 2, 2, 2), (192, 2, 2, 2), (256, 2, 2, 2)
        ),
    }
)


def published(name: str) -> Arch:
    """The published architecture of this name. Raises `ArchError`, which lists the names."""
    try:
        return PUBLISHED[name]
    except KeyError:
        raise ArchError(f"no published architecture {name!r}; there are {', '.join(PUBLISHED)}") from None
