"""The errors this package raises.

ElasticVitError
├── ArchError          a value is not an architecture
├── SpaceError         an architecture or a code lies outside a space
├── SupernetFileError  a supernet file is missing, truncated or of another kind
├── DataError          images or labels cannot be used
├── ExportError        a network could not be written, or the file written is another function
├── PredictorError     too few or unusable measurements for a predictor
├── SearchError        the arguments of a search are not valid
│   └── InfeasibleError   no sub-network is within the budget
└── StoppedError       a run was stopped; the same call continues it
"""


class ElasticVitError(Exception):
    """Root of the errors of this package; every message says what to do."""


class ArchError(ElasticVitError):
    """A value is not an architecture."""


class SpaceError(ElasticVitError):
    """An architecture or an encoding lies outside a space."""


class SupernetFileError(ElasticVitError):
    """A supernet file cannot be used."""


class DataError(ElasticVitError):
    """Images or labels cannot be used."""


class ExportError(ElasticVitError):
    """A network could not be exported faithfully."""


class PredictorError(ElasticVitError):
    """A latency or accuracy predictor cannot be fitted or used."""


class SearchError(ElasticVitError):
    """The arguments of a search are not valid."""


class InfeasibleError(SearchError):
    """No sub-network of the space meets the budget.

    Attributes:
        smallest_ms: the smallest upper bound that the space can reach, milliseconds.
    """

    def __init__(self, message: str, smallest_ms: float) -> None:
        super().__init__(message)
        self.smallest_ms = smallest_ms


class StoppedError(ElasticVitError):
    """A run was stopped; its checkpoint, if it has one, is saved."""
