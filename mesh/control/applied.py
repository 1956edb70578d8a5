"""What was applied over the API: kept as files, one resource each, so that it survives the control plane.

All or nothing: every document is decoded, then every file written under another name, then all are renamed into place.
What is applied goes before what stands in a watched folder, and can be deleted over the API; the latter cannot.

The file that a resource was applied from is kept with it as an annotation: a Workload's `directory` is relative to that
file's folder. It is ours alone: what people see has the file in its status, and their own annotation of that name goes.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
import yaml

from mesh.control.cluster import Cluster, Held, Key, key_of
from mesh.control.files import Files
from mesh.model.api import ResourceStatus
from mesh.model.documents import decode_resource, load_documents
from mesh.model.errors import ConduitError, ConfigError
from mesh.model.resources import Metadata, Resource, Workload

SOURCE = "conduit.mesh/source"
"""The annotation: the path of the file that the resource was applied from, as the one who applied it gave it."""


class InSource(ConduitError):
    """The resource stands in a file that a person keeps, or (`of_replica`) that a running replica does: `file`."""

    def __init__(self, file: str, *, of_replica: bool = False) -> None:
        self.file, self.of_replica = file, of_replica
        super().__init__(file)


class Applied:
    """Writes and removes the files in `<state>/applied`, and has them read at once."""

    def __init__(self, cluster: Cluster, files: Files) -> None:
        self._cluster = cluster
        self._files = files

    def put(self, text: str, file: str) -> list[ResourceStatus]:
        """Puts all resources in `text` in force, or raises ConfigError, which names `file`, and changes nothing.

        A relative `file` is taken from the folder that we run in.
        """
        resources = [without_source(decode_resource(document))[0] for document in load_documents(text, file)]
        if not resources:
            raise ConfigError("holds no resource", file=file)
        statuses: list[ResourceStatus] = []
        todo: dict[Path, Resource] = {}
        for resource in resources:
            key = key_of(resource)
            path = self._path(key)
            if path in todo:
                raise ConfigError(f"{key} stands in this file twice", file=file, field="metadata.name")
            status = self._status(key, resource, file)
            statuses.append(status)
            if status.result != "unchanged":
                todo[path] = with_source(resource, file)
        write_all(todo, file)
        self._files.look_at_state()
        return statuses

    def has(self, held: Held) -> bool:
        """Whether what is in force was applied, and can be deleted here."""
        return Path(held.file).parent == self._files.applied

    def delete(self, key: Key) -> ResourceStatus | None:
        """Takes an applied resource away; None where there is no such resource. Raises InSource where a file has it."""
        held = self._cluster.get(key)
        if held is None:
            return None
        path = Path(held.file)
        if not self.has(held):
            raise InSource(held.file, of_replica=path.parent == self._files.endpoints)
        path.unlink(missing_ok=True)
        self._files.look_at_state()
        heir = self._cluster.get(key)
        reason = f"what {heir.file} says is in force again" if heir else ""
        return ResourceStatus(*key, result="deleted", accepted=True, reason=reason, file=self.shown(held).file)

    def shown(self, held: Held) -> Held:
        """The resource as it was written, and the file that it was written in, also where it was applied."""
        if not self.has(held):
            return held
        resource, source = without_source(held.resource)
        return Held(resource, source or held.file)

    def _path(self, key: Key) -> Path:
        # Namespace and name are DNS labels, which decoding has checked: nothing in them can lead out of the folder.
        return self._files.applied / f"{key.kind}.{key.namespace}.{key.name}.yaml"

    def _status(self, key: Key, resource: Resource, file: str) -> ResourceStatus:
        held = self._cluster.get(key)
        if held is None:
            return ResourceStatus(*key, result="created", file=file)
        shown = self.shown(held)
        # The same Workload from a file elsewhere is another one: its directory is relative to that.
        if shown.resource == resource and (
            not isinstance(resource, Workload) or folder_of(shown.file) == folder_of(file)
        ):
            return ResourceStatus(*key, result="unchanged", file=file)
        over = "" if self.has(held) else f"in force in place of what {held.file} says"
        return ResourceStatus(*key, result="configured", reason=over, file=file)


def folder_of(file: str) -> Path:
    """The folder that paths in a file are relative to."""
    return Path(file).absolute().parent


def with_source(resource: Resource, file: str) -> Resource:
    """The resource as it is kept."""
    annotations = {**resource.metadata.annotations, SOURCE: file}
    return msgspec.structs.replace(resource, metadata=annotated(resource.metadata, annotations))


def without_source(resource: Resource) -> tuple[Resource, str]:
    """The resource as it was written, and the file that it was applied from; empty where that is not known."""
    annotations = dict(resource.metadata.annotations)
    source = annotations.pop(SOURCE, "")
    return msgspec.structs.replace(resource, metadata=annotated(resource.metadata, annotations)), source


def annotated(metadata: Metadata, annotations: dict[str, str]) -> Metadata:
    """The metadata with these annotations instead of its own."""
    return msgspec.structs.replace(metadata, annotations=annotations)


def dump(resource: Resource) -> str:
    """The resource as YAML, in its envelope."""
    body: dict[str, object] = msgspec.to_builtins(resource)
    envelope = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
    text: str = yaml.safe_dump(envelope, sort_keys=False, allow_unicode=True)
    return text


def write_all(resources: dict[Path, Resource], file: str) -> None:
    """Writes every file, or none; raises ConfigError, blaming `file`, where the disk will not have them."""
    written: list[tuple[str, Path]] = []
    try:
        for path, resource in resources.items():
            descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=".tmp", dir=path.parent)
            written.append((temporary, path))
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(dump(resource))
        for temporary, path in written:
            os.replace(temporary, path)
    except OSError as exc:
        for temporary, _ in written:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError(f"cannot be kept: {exc.strerror}", file=file) from exc
