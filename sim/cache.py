"""Artefacts that are costly to make, kept in the user's cache directory under a digest of everything they were made from."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import platformdirs

from sim.harness import SimulationError

__all__ = ["cache_directory", "cached", "digest_of"]


def cache_directory() -> Path:
    """Return where artefacts are kept: ``SYSTOLITH_CACHE`` if set, else the user's cache directory."""
    chosen = os.environ.get("SYSTOLITH_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("systolith")


def digest_of(parts: Iterable[str | bytes]) -> str:
    """Return a digest of some texts, in order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def cached(kind: str, digest: str, make: Callable[[Path], None]) -> Path:
    """Return the directory of an artefact; if it is not there, ``make`` fills it first.

    It appears whole or not at all. Of several processes that want the same one, one makes it and the others wait.
    Raises :class:`SimulationError` when the cache cannot be written, and whatever ``make`` raises.
    """
    shelf = cache_directory() / kind
    place = shelf / digest
    unfinished = shelf / f".{digest}.unfinished"
    if place.is_dir():
        return place
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        with _locked(shelf / f".{digest}.lock"):
            if not place.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
                unfinished.mkdir()
                try:
                    make(unfinished)
                    unfinished.rename(place)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise SimulationError(
            f"{shelf}: what is made once cannot be kept there ({error.strerror}); set SYSTOLITH_CACHE to another directory"
        ) from None
    return place


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which is gone afterwards. The lock itself ends with the process, however that ends."""
    while True:
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                current = path.stat()
            except FileNotFoundError:
                continue  # whoever held it before has removed the file: what is locked now is no longer the lock
            if not os.path.samestat(current, os.fstat(lock.fileno())):
                continue
            try:
                yield
            finally:
                path.unlink()
            return
