"""What can go wrong here: BenchError, and below it BenchBuildError and BenchOutputError."""


class BenchError(Exception):
    """Root of this package's errors; the text says what to do."""


class BenchBuildError(BenchError):
    """The program cannot be built, or the library it loads is not installed."""


class BenchOutputError(BenchError):
    """A text is not the output of the program that was expected to write it."""
