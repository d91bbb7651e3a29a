"""The errors this package raises.

ElasticVitError
├── ArchError          a value is not an architecture
├── SpaceError         an architecture or a code lies outside a space
├── SupernetFileError  a supernet file is missing, truncated or of another kind
├── DataError          images or labels cannot be used
├── ExportError        a network could not be written, or what was written is not that network
├── PredictorError     too few or unusable measurements for a predictor
└── SearchError        a search cannot be run as asked
    └── InfeasibleError   no subnet is within the budget
"""


class ElasticVitError(Exception):
    """Root of this package's errors; the message says what to do."""


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
    """A search cannot be run as asked."""


class InfeasibleError(SearchError):
    """No subnet of the space meets the budget.

    Attributes:
        smallest_ms: the smallest reachable upper bound, milliseconds.
    """

    def __init__(self, message: str, smallest_ms: float) -> None:
        super().__init__(message)
        self.smallest_ms = smallest_ms


class StoppedError(ElasticVitError):
    """A run was asked to stop; its checkpoint, if it has one, is saved."""
