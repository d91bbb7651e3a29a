"""Landlock (Linux 5.13 and later): a process gives up all files but those that are named; its children inherit that.

https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

# The same numbers on every architecture that Linux still builds Landlock for.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_REG = 1 << 5, 1 << 8
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15

READ = READ_FILE | READ_DIR
RUN = READ | EXECUTE
CHANGE = READ | WRITE_FILE | TRUNCATE | REMOVE_FILE | MAKE_REG
_ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

# How many rights on files each version of Landlock knows; a right that the kernel does not know is refused by it.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_BIND_AND_CONNECT_TCP = 0b11  # since version 4
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11  # since version 6


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scope", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def version() -> int:
    """The version of the kernel's Landlock; 0 if it has none, or if it is switched off."""
    try:
        return _call(_CREATE_RULESET, None, 0, _GET_VERSION)
    except OSError:
        return 0


def restrict(rules: Iterable[tuple[str, int]]) -> None:
    """From now on this thread and its children may use nothing but `rules`: paths with the rights on and below them.

    Where the kernel can, they also open no TCP connection and send no signal to processes outside. A path that does
    not exist is left out. The process must have no new privileges (PR_SET_NO_NEW_PRIVS). Raises OSError.
    """
    known = version()
    rights = (1 << _FILE_RIGHTS.get(known, 16)) - 1
    ruleset = _Ruleset(files=rights)
    size_bytes = 8
    if known >= 4:
        ruleset.network, size_bytes = _BIND_AND_CONNECT_TCP, 16
    if known >= 6:
        ruleset.scope, size_bytes = _ABSTRACT_SOCKETS_AND_SIGNALS, 24
    descriptor = _call(_CREATE_RULESET, ctypes.byref(ruleset), size_bytes, 0)
    try:
        for path, wanted in rules:
            with suppress(FileNotFoundError):
                _allow(descriptor, path, wanted & rights)
        _call(_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)


def _allow(ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _ON_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_PathBeneath(rights, place)), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
