"""Locks: one running service a home folder and a port."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

from server.errors import ServerError, SettingsError, from_os_error
from server.wire.connect import bracketed


class Taken(ServerError):  # noqa: N818 - as in server/errors.py
    """The home folder or the port is in use by another process, which the message names."""


class HomeLock:
    """Held from `acquire` until `release` or the end of the process, however it ends."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @classmethod
    def acquire(cls, home: Path, port: int) -> HomeLock:
        """Raises Taken naming the holder; InfraError where the folder cannot be written."""
        path = home / "run.lock"
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Not truncated before it is locked: it names the holder.
            file = path.open("a+")
        except OSError as error:
            raise from_os_error(error, f"the home folder {home}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(file)
            file.close()
            raise Taken(f"the home folder {home} is in use by {holder}: stop it or set ELASTICVIT_HOME") from None
        with suppress(OSError):  # on a full disk the holder has no name
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), json.dumps({"pid": os.getpid(), "port": port}).encode())
        return cls(file)

    def release(self) -> None:
        self._file.close()


def check_port(host: str, port: int) -> None:
    """Raises Taken naming the process that listens there, if /proc names it; SettingsError if the host or the port
    cannot be listened on at all."""
    address = f"{bracketed(host)}:{port}"
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as uvicorn listens
            probe.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise SettingsError(
                f"cannot listen on {address} ({error.strerror or error}): set ELASTICVIT_HOST to an address of this "
                "machine and ELASTICVIT_PORT to a port that you may use"
            ) from error
        pid = listener(port)
        holder = f"process {pid} ({command(pid)})" if pid else "another process"
        raise Taken(f"{address} is held by {holder} ({error.strerror}): stop it or set ELASTICVIT_PORT") from error


def listener(port: int) -> int | None:
    """The process that listens on a TCP port, None if /proc does not show it."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in sockets for link in (folder / "fd").iterdir()):
                return int(folder.name)
        except OSError:
            continue  # gone meanwhile, or another user's
    return None


def command(pid: int) -> str:
    """A process's command line, shortened."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:120]
    except OSError:
        return "unknown command"


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(fields[9])
    return inodes


def _read(file: IO[str]) -> str:
    file.seek(0)
    try:
        held = json.load(file)
        return f"process {held['pid']} (port {held['port']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
