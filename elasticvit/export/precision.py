"""The number formats in which a file may hold its weights and do its sums."""

from enum import StrEnum


class Precision(StrEnum):
    """What `--precision` and the wire call them.

    float32: as trained. float16: weights in half precision, sums in float32 (in half precision where the runtime's
    delegate prefers that). dynamic_int8: the weights of those operators that a recipe names in int8, everything else
    float32; activations are quantised on the fly. int8: weights and activations in int8 wherever the delegate can.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    DYNAMIC_INT8 = "dynamic_int8"
    INT8 = "int8"
