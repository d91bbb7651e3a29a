"""The errors of the agent.

AgentError
├── SettingsError        exit 2  a setting or a flag is not valid
├── HomeInUse            exit 3  another agent works in this home folder
├── HomeUnusable         exit 4  the home folder cannot be written
├── BenchMissing         exit 5  android_bench or its runtime is missing
├── ApiError             what the server answered
│   ├── ServerAway       no answer, or "not now": try again later
│   │   ├── ServerFault  the server failed on this very request: 500
│   │   └── BadAnswer    what answers does not follow the protocol
│   ├── Unauthorized     the token is wrong, revoked, or of another role
│   ├── UnknownAgent     the server does not know the agent: register again
│   ├── StaleLease       the agent no longer holds the lease: drop the work
│   ├── Missing          a file that a lease names is missing on the server
│   └── Refused          the request is wrong, and would be so again
└── WorkError            why a job failed; has the `kind` of the wire's Failure
    ├── BadModel         user    the model cannot be measured, or not within the limits of this device
    ├── SessionTooLong   user    the protocol asks for more time than a session may take here
    ├── DeviceFault      device  this device failed
    │   └── Unfinished   device  crashed or did not end: the model's fault if it has never run here
    ├── InfraFault       infra   agent, disk, network or server
    └── Cancelled           infra   the agent stops, or the device or the lease is gone
"""

# ruff: noqa: N818  the names say what is wrong; "Error" at the end of each would add nothing

from __future__ import annotations

from typing import ClassVar

from server.wire import MAX_DETAIL_CHARS, Failure, FailureKind


class AgentError(Exception):
    """Root; the message is a sentence that says what to do. `exit_code` is that of a process which it ends."""

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


class ServerFault(ServerAway):
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
    """`log` is the stderr of the benchmark, for the report."""

    kind: ClassVar[FailureKind] = "infra"

    def __init__(self, detail: str, log: str = "") -> None:
        super().__init__(detail)
        self.log = log

    def failure(self) -> Failure:
        return Failure(
            kind=self.kind, detail=str(self)[:MAX_DETAIL_CHARS] or "no reason is known: read the agent's log"
        )


class BadModel(WorkError):
    kind = "user"


class SessionTooLong(WorkError):
    kind = "user"


class DeviceFault(WorkError):
    kind = "device"


class Unfinished(DeviceFault):
    pass


class InfraFault(WorkError):
    pass


class Cancelled(WorkError):
    pass
