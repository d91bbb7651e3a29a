"""The errors of the agent.

AgentError
├── SettingsError        exit 2  what was configured does not fit
├── HomeInUse            exit 3  another agent works in this home folder
├── HomeUnusable         exit 4  the home folder cannot be written
├── BenchMissing         exit 5  android_bench or its runtime is not there
├── ApiError             what the server answered
│   ├── ServerAway       no answer, or "not now": try again later
│   │   └── BadAnswer    something answers that does not speak our protocol
│   ├── Unauthorized     the token is wrong, revoked, or of another role
│   ├── UnknownAgent     the server forgot us: register again
│   ├── StaleLease       the lease is no longer ours: drop the work
│   ├── Missing          a file that a lease names is not there
│   └── Refused          our request is wrong, and stays wrong when repeated
└── WorkError            why a job failed; has the `kind` of the wire's Failure
    ├── BadModel         user    the model cannot be measured anywhere
    ├── DeviceFault      device  this device did not do it
    ├── InfraFault       infra   agent, disk, network or server
    └── Cancelled           infra   told to end: the agent stops or the lease is gone
"""

# ruff: noqa: N818  the names say what is wrong; "Error" at the end of each would add nothing

from __future__ import annotations

from typing import ClassVar

from server.wire import Failure, FailureKind

MAX_DETAIL = 4000


class AgentError(Exception):
    """Root; the message is a sentence that says what to do. `exit_code` is the process's, where it ends it."""

    exit_code: ClassVar[int] = 1


class SettingsError(AgentError):
    exit_code = 2


class HomeInUse(AgentError):
    exit_code = 3


class HomeUnusable(AgentError):
    exit_code = 4


class BenchMissing(AgentError):
    exit_code = 5


class ApiError(AgentError):
    pass


class ServerAway(ApiError):
    pass


class BadAnswer(ServerAway):
    pass


class Unauthorized(ApiError):
    pass


class UnknownAgent(ApiError):
    pass


class StaleLease(ApiError):
    pass


class Missing(ApiError):
    pass


class Refused(ApiError):
    pass


class WorkError(AgentError):
    """`log` is what the benchmark said, for the report."""

    kind: ClassVar[FailureKind] = "infra"

    def __init__(self, detail: str, log: str = "") -> None:
        super().__init__(detail)
        self.log = log

    def failure(self) -> Failure:
        return Failure(kind=self.kind, detail=str(self)[:MAX_DETAIL])


class BadModel(WorkError):
    kind = "user"


class DeviceFault(WorkError):
    kind = "device"


class InfraFault(WorkError):
    pass


class Cancelled(WorkError):
    pass
