"""The files source: folders and files of YAML, looked at often, and what is in them put into the cluster state.

General theory. Each look takes the stat of every file (times, size, inode); a file whose stat changed is read and
decoded. No notification service of the kernel is needed, so it works on any file system. Rules:

- A file in a person's folder is read once two looks in a row saw the same stat, so that half of a file that an editor
  is still writing is not taken for all of it. Our own files arrive by rename, whole, and are read at once.
- A file that is wrong is refused with file, line and field; its last good content stays in force. One that is gone
  takes its resources with it. Both are logged, once for each change.
- `<state>/endpoints/*.yaml` hold Endpoints, written by the supervisors of running replicas. Those of a dead supervisor
  are stale, and their file is removed. `<state>/applied/*.yaml` are written by applied.py, one resource each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog
import trio

from mesh.control.cluster import APPLIED_RANK, SOURCE_RANK, Cluster, Key, ServiceKey
from mesh.model.documents import Document, decode_resource, load_documents
from mesh.model.errors import ConfigError
from mesh.model.resources import Endpoint, Resource

SOURCE_POLL_SECONDS = 0.3
STATE_POLL_SECONDS = 0.1
"""The state folder's files are few and ours; an endpoint that has come or gone should be known at once."""

MAX_FILE_BYTES = 1024 * 1024
SUFFIXES = (".yaml", ".yml")

Changed = Callable[[frozenset[ServiceKey]], None]


class Seen(NamedTuple):
    """What tells one version of a file from the next."""

    modified_ns: int
    changed_ns: int
    size: int
    inode: int


class WrongResource(ConfigError):
    """One resource of a file is wrong, and with it the file; `key` is the resource's, if that much can be read."""

    def __init__(self, error: ConfigError, key: Key | None) -> None:
        super().__init__(error.reason, file=error.file, line=error.line, field=error.field)
        self.key = key


class Files:
    """Watches the sources and the state folder, and folds what they hold into the cluster."""

    def __init__(
        self,
        sources: Sequence[Path],
        state: Path,
        cluster: Cluster,
        changed: Changed,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.applied = state / "applied"
        self.endpoints = state / "endpoints"
        self._ours = (self.applied.absolute(), self.endpoints.absolute())
        self._sources = tuple(sources)
        self._cluster = cluster
        self._changed = changed
        self._log = log
        self._settling: dict[Path, Seen] = {}
        self._read: dict[Path, Seen] = {}
        self._supervisors: dict[Path, int] = {}

    def __repr__(self) -> str:
        return f"<Files sources={[str(source) for source in self._sources]} read={len(self._read)}>"

    def prepare(self) -> None:
        """Makes the state folder and reads everything once, without waiting for files to settle."""
        for folder in (self.applied, self.endpoints):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.look_at_state()
        self.look_at_sources(settle=False)

    async def watch(self) -> None:
        """Looks again and again, until cancelled."""
        next_sources = trio.current_time() + SOURCE_POLL_SECONDS
        while True:
            await trio.sleep(STATE_POLL_SECONDS)
            self.look_at_state()
            if trio.current_time() >= next_sources:
                self.look_at_sources()
                next_sources = trio.current_time() + SOURCE_POLL_SECONDS

    def look_at_sources(self, *, settle: bool = True) -> None:
        """One look at what people write."""
        found: dict[Path, Seen] = {}
        for source in self._sources:
            found.update((path, seen) for path, seen in look(source).items() if not self._is_ours(path))
        self._forget({path for path in self._read if not self._is_ours(path)} - found.keys())
        for path in self._settling.keys() - found.keys():
            del self._settling[path]
        for path, seen in found.items():
            if self._read.get(path) == seen:
                self._settling.pop(path, None)
            elif settle and self._settling.get(path) != seen:
                self._settling[path] = seen
            else:
                self._settling.pop(path, None)
                self._take(path, seen, SOURCE_RANK)

    def look_at_state(self) -> None:
        """One look at what we and the supervisors write."""
        self._remove_stale()
        found = look(self.applied) | look(self.endpoints)
        self._forget({path for path in self._read if self._is_ours(path)} - found.keys())
        for path, seen in found.items():
            if self._read.get(path) != seen:
                self._take(path, seen, APPLIED_RANK)
        self._remove_stale()

    # --- one file

    def _is_ours(self, path: Path) -> bool:
        return path.absolute().parent in self._ours

    def _take(self, path: Path, seen: Seen, rank: int) -> None:
        self._read[path] = seen
        try:
            resources = decode(path)
            if path.parent == self.endpoints:
                self._supervisors[path] = supervisor(path, resources)
            changed = self._cluster.set_file(str(path), resources, rank=rank)
        except FileNotFoundError:
            del self._read[path]  # gone since we looked; the next look notices
            return
        except ConfigError as error:
            self._refuse(path, error)
            return
        except Exception as exc:  # noqa: BLE001 - a file that trips us up must not end the control plane
            self._log.exception("file not understood", file=str(path))
            self._refuse(path, ConfigError(f"cannot be understood: {type(exc).__name__}: {exc}", file=str(path)))
            return
        self._log.info("file read", file=str(path), resources=len(resources), version=self._cluster.version)
        if changed:
            self._changed(changed)

    def _refuse(self, path: Path, error: ConfigError) -> None:
        self._cluster.refuse_file(str(path), error, error.key if isinstance(error, WrongResource) else None)
        self._log.warning("file refused", file=str(path), line=error.line, field=error.field, reason=error.reason)

    def _forget(self, gone: Iterable[Path]) -> None:
        for path in sorted(gone):
            del self._read[path]
            self._supervisors.pop(path, None)
            self._clear(path)
            self._log.info("file gone", file=str(path), version=self._cluster.version)

    def _clear(self, path: Path) -> None:
        changed = self._cluster.remove_file(str(path))
        if changed:
            self._changed(changed)

    def _remove_stale(self) -> None:
        for path, pid in list(self._supervisors.items()):
            if pid and not alive(pid):
                self._log.warning("endpoint of a dead process removed", file=str(path), pid=pid)
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    self._log.error("stale endpoint cannot be removed", file=str(path), reason=str(error))
                del self._supervisors[path]
                self._clear(path)


def look(source: Path) -> dict[Path, Seen]:
    """The YAML files that a source is or holds, at any depth, with their stats; hidden ones are passed over.

    A source that does not exist, or cannot be read, holds none: it may come back.
    """
    if not os.path.isdir(source):  # Path.is_dir raises where a folder above may not be read
        seen = stat(source)
        return {source: seen} if seen else {}
    found: dict[Path, Seen] = {}
    for folder, subfolders, names in os.walk(source):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith("."):
                path = Path(folder, name)
                seen = stat(path)
                if seen:
                    found[path] = seen
    return found


def stat(path: Path) -> Seen | None:
    """The file's stat, links followed; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Seen(found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def decode(path: Path) -> list[Resource]:
    """The resources in a file; ConfigError where it is too large, unreadable or wrong, FileNotFoundError if gone."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"longer than {MAX_FILE_BYTES} bytes", file=str(path))
        text = content.decode()
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=str(path)) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"not UTF-8 at byte {exc.start}", file=str(path)) from exc
    resources = []
    for document in load_documents(text, str(path)):
        try:
            resources.append(decode_resource(document))
        except ConfigError as error:
            raise WrongResource(error, spoken_of(document)) from error
    return resources


def spoken_of(document: Document) -> Key | None:
    """The key of the resource that a document means, as far as it can be seen in one that is wrong."""
    kind, metadata = document.value.get("kind"), document.value.get("metadata")
    if not isinstance(kind, str) or not isinstance(metadata, dict):
        return None
    return Key(kind[:100], str(metadata.get("namespace", "default"))[:100], str(metadata.get("name", ""))[:100])


def supervisor(path: Path, resources: Sequence[Resource]) -> int:
    """The process that answers for the endpoints in a file, 0 if none does; ConfigError where other kinds are in it."""
    pid = 0
    for resource in resources:
        if not isinstance(resource, Endpoint):
            raise ConfigError(f"only Endpoints belong here, not a {resource.kind}", file=str(path), field="kind")
        pid = resource.spec.pid or pid
    return pid


def alive(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
