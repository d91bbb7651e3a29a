"""Gives up what a plan does not allow, and becomes the command of the plan; started by `command.launch_command`.

A process of its own, because the agent has threads: code between fork and exec could deadlock there. It imports little,
to start in little time: no dataclasses, no json. Ends with EXIT_LAUNCH and a sentence on stderr if the command does not
start.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from device_agent.sandbox import landlock
from device_agent.sandbox.system import readable_rules

EXIT_LAUNCH = 120
SENTENCE = "sandbox: error: "

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
# The kernel ends the process with the highest score first when memory runs out.
_FIRST_TO_GO = "1000"


def main(arguments: Sequence[str]) -> int:
    """The exit code, if the command does not start. `arguments` are `Plan.words`."""
    try:
        end = arguments.index("--")
        pairs = [word.split("=", 1) for word in arguments[:end]]
        files = [value for name, value in pairs if name == "file"]
        _become(arguments[end + 1 :], files, {name: value for name, value in pairs if name != "file"})
    except (OSError, ValueError, KeyError, IndexError) as error:
        sys.stderr.write(f"{SENTENCE}the benchmark cannot be started ({type(error).__name__}: {error})\n")
    return EXIT_LAUNCH


def _become(command: Sequence[str], files: Sequence[str], plan: Mapping[str, str]) -> None:
    os.chdir(plan["folder"])
    program, words = command[0], list(command[1:])
    descriptor: int | None = None
    if "user" in plan:
        descriptor = _passed(program)
        links = {path: _link(path) for path in files if path in words}
        words = [links.get(word, word) for word in words]
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123  pathlib loads slowly
        file.write(_FIRST_TO_GO)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if "landlock" in plan:
        rights = ((path, landlock.RUN if path == program else landlock.READ) for path in files)
        landlock.restrict((*readable_rules(), *rights, (plan["folder"], landlock.CHANGE)))
    if "user" in plan:
        _become_user(int(plan["user"]), int(plan["group"]))
    _end_with(int(plan["parent"]))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and an ignored signal stays so
        signal.signal(number, signal.SIG_DFL)
    _limit(plan)
    os.execve(program if descriptor is None else descriptor, [program, *words], os.environ)


def _passed(path: str) -> int:
    """A descriptor that the command inherits: its user may read the file, but not enter the folders above it."""
    descriptor = os.open(path, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    return descriptor


def _link(path: str) -> str:
    """A link in the folder, under the file's own name, that leads to a descriptor of it."""
    name = f"./{os.path.basename(path)}"  # noqa: PTH119  pathlib loads slowly
    os.symlink(f"/proc/self/fd/{_passed(path)}", name)  # noqa: PTH211
    return name


def _become_user(user: int, group: int) -> None:
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def _end_with(parent: int) -> None:
    """A change of user clears the signal: call it after that."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _limit(plan: Mapping[str, str]) -> None:
    bounds = {
        resource.RLIMIT_AS: plan["memory_bytes"],
        resource.RLIMIT_FSIZE: plan["file_bytes"],
        resource.RLIMIT_NOFILE: plan["files"],
        resource.RLIMIT_NPROC: plan.get("processes"),
        resource.RLIMIT_CORE: "0",
    }
    for which, bound in bounds.items():
        if bound is not None:
            _lower(which, int(bound), int(bound))
    # Soft below hard: SIGXCPU says why it ends, SIGKILL would not.
    seconds = int(plan["cpu_seconds"])
    _lower(resource.RLIMIT_CPU, seconds, seconds + 5)


def _lower(which: int, soft: int, hard: int) -> None:
    """Set a limit, unless the agent itself has a lower one."""
    own = resource.getrlimit(which)[1]
    if own != resource.RLIM_INFINITY:
        soft, hard = min(soft, own), min(hard, own)
    resource.setrlimit(which, (soft, hard))
