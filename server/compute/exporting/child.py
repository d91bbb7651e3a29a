"""The exporting process: `python -m server.compute.exporting.child FD BYTES` runs the orders that come over a socket.

It ends when the other end is closed, or with its parent. BYTES bounds its data (RLIMIT_DATA), so that an export that
grows without end fails here before it takes the machine's memory.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import sys
from multiprocessing.connection import Connection

from server.compute.exporting.remote_errors import remote_error
from server.wire.process import exit_with_parent


def serve(connection: Connection) -> None:
    """Answer orders until the socket is closed: each with any number of ("stage", name), then ("done", result) or
    ("error", RemoteError)."""
    from server.compute.exporting.loaded_supernet import LoadedSupernets
    from server.compute.exporting.work import run_order

    loaded = LoadedSupernets()
    settled: set[tuple[str, type]] = set()
    connection.send(("ready", None))
    while True:
        try:
            order = connection.recv()
        except EOFError:
            return
        answer: tuple[str, object]
        try:
            answer = ("done", run_order(order, loaded, lambda stage: connection.send(("stage", stage))))
        except Exception as error:
            answer = ("error", remote_error(error))
        connection.send(answer)
        if (kind := (order.supernet.sha256, type(order))) not in settled:
            settled.add(kind)
            _settle()
        del answer, order


def _settle() -> None:
    """Exclude what was loaded from garbage collection: a pass over torch's objects takes 0.15 s."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def main(arguments: list[str]) -> None:
    """The process's work."""
    faulthandler.enable()
    exit_with_parent()
    # Set before torch is loaded: idle threads sleep instead of disturbing what is measured on this machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    connection, max_bytes = Connection(int(arguments[0])), int(arguments[1])
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    try:
        serve(connection)
    except (BrokenPipeError, ConnectionResetError):
        return  # the worker is gone


if __name__ == "__main__":
    main(sys.argv[1:])
