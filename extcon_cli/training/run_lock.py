"""One run per output: a lock in `OUT.run/`.

The system lets go of a lock when its process ends, however it ends, so no lock outlives its run. Where the system has
no such locks (Windows) there is none, and two runs of one output are not told apart.
"""

from __future__ import annotations

import os
import socket
import weakref
from pathlib import Path

from extcon_cli.errors import UsageError

try:
    from fcntl import LOCK_EX, LOCK_NB, lockf
except ImportError:  # Windows
    lockf = None  # type: ignore[assignment]


class RunLock:
    """Held from the start of a run until this object is gone.

    Args:
        folder: OUT.run; made where it is not there.

    Raises: UsageError where another process holds it; it is named.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._path = folder, folder / "lock"
        try:
            self._made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = self._locked()
            self._release = weakref.finalize(self, os.close, descriptor)
            self._sign(descriptor)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be written: {error.strerror or error}") from error

    def withdraw(self) -> None:
        """Nothing was begun: leave no trace, as far as this lock made it."""
        self._path.unlink(missing_ok=True)
        self._release()
        if self._made:
            try:
                self.folder.rmdir()
            except OSError:  # somebody has put something there
                return

    def remove(self) -> None:
        """The run is over: let go, and take the folder away where nothing else is left in it."""
        self._made = True
        self.withdraw()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        """What keeps no state leaves no trace."""
        self.withdraw()

    def _sign(self, descriptor: int) -> None:
        """Say in the file who holds it. OSError where it cannot be written: then nothing is left."""
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except OSError:
            self.withdraw()
            raise

    def _locked(self) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if lockf is not None:
                    lockf(descriptor, LOCK_EX | LOCK_NB)
                if os.path.exists(self._path) and os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    return descriptor
            except (BlockingIOError, PermissionError) as error:
                holder = os.read(descriptor, 300).decode(errors="replace").strip() or "another process"
                os.close(descriptor)
                raise UsageError(
                    f"{self.folder}: in use by {holder}: wait for it, stop it, or choose another --out"
                ) from error
            os.close(descriptor)  # taken away between the two calls
