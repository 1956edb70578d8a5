"""A PolicyPlugin's Python: found, loaded afresh, called, and what it returns taken apart. Runs in a worker thread.

Rules:
- Each call loads the module's source anew, into a module object of its own: an edit is never hidden by what an earlier
  one left in memory or in `__pycache__`, which is neither read nor written. From a `directory`, what the module imports
  relatively (`from . import rules`) is loaded anew too.
- What a plugin is given it cannot change, and of what it returns a copy is taken: nothing that it does later matters.
- Whatever it raises becomes a ConfigError with the file and line in the plugin, and costs nobody else anything.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, MappingProxyType, ModuleType
from typing import Any, NamedTuple

import msgspec

from mesh.model.errors import ConfigError
from mesh.model.resources import API_VERSION, AuthorizationPolicy, DefaultPolicy, EgressPolicy, EntryPoint

MAX_POLICIES = 1_000
"""Of one plugin."""
MAX_BYTES = 1024 * 1024
"""Of all that it returns, as JSON: what a file may hold."""
WRITTEN = (AuthorizationPolicy, DefaultPolicy, EgressPolicy)
"""What a plugin may write."""
PREFIX = "_conduit_plugin_"
_numbers = itertools.count(1)


class WorkloadView(NamedTuple):
    """A workload, as plugins see it. `service` is empty for one that serves nothing; `identity` is its DNS identity."""

    name: str
    namespace: str
    service: str
    account: str
    identity: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class ServiceView(NamedTuple):
    """A service, with the names of the workloads behind it."""

    name: str
    namespace: str
    workloads: tuple[str, ...]


class View(NamedTuple):
    """What a plugin is told of the mesh; all sorted by namespace and name."""

    workloads: tuple[WorkloadView, ...]
    services: tuple[ServiceView, ...]
    namespaces: tuple[str, ...]


class Compiled(NamedTuple):
    """What a call came to: policies as plain values, or the error; and the files that it depends on."""

    policies: Sequence[dict[str, Any]]
    error: ConfigError | None
    files: tuple[str, ...]


class _Fresh(importlib.machinery.SourceFileLoader):
    """Compiles the source each time, whatever is cached."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _Finder(MetaPathFinder):
    """Finds the modules below our synthetic packages, by `_Fresh`; knows no others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(PREFIX) or path is None:
            return None
        return _spec(fullname, [Path(folder) for folder in path], fullname.rpartition(".")[2])


def call(entry: EntryPoint, directory: Path | None, view: View) -> Compiled:
    """Loads and calls it; `directory` is where its module is, None for one that is installed. Raises nothing."""
    prefix = f"{PREFIX}{next(_numbers)}"
    name, _, attribute = entry.function.partition(":")
    files: tuple[str, ...] = ()
    try:
        try:
            module = _load_from(directory, prefix, name) if directory is not None else _load_installed(name)
            function = module
            for part in attribute.split("."):
                function = getattr(function, part)
            options = msgspec.json.decode(msgspec.json.encode(entry.options))
            policies, error = _plain(function(view, options)), None  # type: ignore[operator]
        finally:
            files = _files(prefix, directory, name)
            for loaded in [each for each in sys.modules if each.partition(".")[0] == prefix]:
                del sys.modules[loaded]
    except ConfigError as exc:
        policies, error = [], exc
    except BaseException as exc:  # noqa: BLE001 - a plugin may even call sys.exit; whatever it is, it is told
        files = tuple(sorted({*files, *_guilty(exc, directory)}))
        policies, error = [], blamed(exc, files)
    return Compiled(policies, error, files)


def blamed(exc: BaseException, files: Sequence[str]) -> ConfigError:
    """The error with the place in the plugin's own files where it happened, if it happened there."""
    reason = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
    if isinstance(exc, SyntaxError) and exc.filename:
        return ConfigError(f"{type(exc).__name__}: {exc.msg}", file=exc.filename, line=exc.lineno or 0)
    for frame in reversed(traceback.extract_tb(exc.__traceback__)):
        if frame.filename in files:
            return ConfigError(reason[:1000], file=frame.filename, line=frame.lineno or 0)
    return ConfigError(reason[:1000], field="spec.python.function")


def _plain(returned: object) -> list[dict[str, Any]]:
    """Copies of the policies, as YAML would have them. Raises ConfigError for what are none, or too many."""
    field = "spec.python.function"
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes | Mapping):
        raise ConfigError(f"returned {type(returned).__name__}, not policies", field=field)
    taken = list(itertools.islice(returned, MAX_POLICIES + 1))
    if len(taken) > MAX_POLICIES:
        raise ConfigError(f"returned more than {MAX_POLICIES} policies", field=field)
    enveloped = []
    for index, each in enumerate(taken):
        if isinstance(each, WRITTEN):
            body: dict[str, Any] = msgspec.to_builtins(each)
            each = {"apiVersion": each.api_version, "kind": each.kind, **body}
        if not isinstance(each, dict):
            raise ConfigError(f"returned {type(each).__name__} as policy {index}, not a mapping", field=field)
        enveloped.append({"apiVersion": API_VERSION, **each})
    text = msgspec.json.encode(enveloped)
    if len(text) > MAX_BYTES:
        raise ConfigError(f"returned {len(text)} bytes of policies, at most {MAX_BYTES}", field=field)
    plain: list[dict[str, Any]] = msgspec.json.decode(text)
    return plain


# --- finding ---------------------------------------------------------------------------------------------------------


def _load_from(directory: Path, prefix: str, name: str) -> ModuleType:
    """The module of a directory, as part of a package of its own that nobody else can mean."""
    if not directory.is_dir():
        raise ConfigError(f"there is no folder {directory}", field="spec.python.directory")
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    package = ModuleType(prefix)
    package.__path__ = [str(directory)]
    sys.modules[prefix] = package
    try:
        return importlib.import_module(f"{prefix}.{name}")
    except ModuleNotFoundError as exc:
        if exc.name is not None and f"{prefix}.{name}".startswith(exc.name):
            reason = f"there is no module {name} in {directory}"
            raise ConfigError(reason, field="spec.python.function") from exc
        raise


def _load_installed(name: str) -> ModuleType:
    """An installed module, loaded once more."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(f"no module {name} is installed", field="spec.python.function")
    fresh = importlib.util.spec_from_file_location(
        name, spec.origin, loader=_Fresh(name, spec.origin), submodule_search_locations=spec.submodule_search_locations
    )
    assert fresh is not None
    assert fresh.loader is not None
    module = importlib.util.module_from_spec(fresh)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        fresh.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module


def _spec(fullname: str, folders: Sequence[Path], name: str) -> importlib.machinery.ModuleSpec | None:
    for folder in folders:
        for path, inside in ((folder / name / "__init__.py", [str(folder / name)]), (folder / f"{name}.py", None)):
            if path.is_file():
                loader = _Fresh(fullname, str(path))
                return importlib.util.spec_from_file_location(
                    fullname, path, loader=loader, submodule_search_locations=inside
                )
    return None


def _files(prefix: str, directory: Path | None, name: str) -> tuple[str, ...]:
    """The source files of what was loaded; where a module of a directory was not found, those that it would have."""
    if directory is None:
        origin = getattr(sys.modules.get(name), "__file__", None)
        return (origin,) if origin else ()
    found = {
        file
        for loaded, module in list(sys.modules.items())
        if loaded.partition(".")[0] == prefix and (file := getattr(module, "__file__", None))
    }
    stem = directory.joinpath(*name.split("."))
    return tuple(sorted(found | {str(stem.with_name(f"{stem.name}.py")), str(stem / "__init__.py")}))


def _guilty(exc: BaseException, directory: Path | None) -> set[str]:
    """The files of a directory that an error came through: what was not loaded because of it is mended there."""
    names = [frame.filename for frame in traceback.extract_tb(exc.__traceback__)]
    if isinstance(exc, SyntaxError) and exc.filename:
        names.append(exc.filename)
    return {name for name in names if directory is not None and Path(name).is_relative_to(directory)}


def frozen(words: Mapping[str, str]) -> Mapping[str, str]:
    """A copy that nobody can change."""
    return MappingProxyType(dict(words))
