"""Spaces so small that every member can be looked at."""

from elasticvit.archs.space import ConvChoices, Space, VitChoices


def few_space() -> Space:
    """Some hundred thousand members, with widths that may and may not follow each other, and unequal choices."""
    return Space(
        name="few",
        resolutions=(16, 32, 48),
        stem=ConvChoices((4, 8), (1, 2), (3,), (1,)),
        conv=(ConvChoices((4, 8, 12), (1,), (3, 5), (2,)), ConvChoices((8, 12), (1, 2), (3,), (2, 3))),
        vit=(
            VitChoices((16, 32), (1, 3), (2,), (1, 2)),
            VitChoices((16, 32, 48), (1,), (1, 2), (2,)),
            VitChoices((32, 48), (1, 2), (2,), (2,)),
            VitChoices((48, 64), (1,), (2,), (1, 3)),
        ),
        hidden=32,
        classes=10,
    )
