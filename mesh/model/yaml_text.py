"""YAML text to plain values, each with the line where it stood.

Pure: nothing here opens a file. Only YAML's safe subset is read, and bounded: MAX_TEXT of text, MAX_DEPTH of nesting,
MAX_VALUES of values once aliases are expanded. A key that is given twice is an error, not a choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from mesh.model.errors import ConfigError

MAX_TEXT = 1024 * 1024
"""Characters of one file."""
MAX_DEPTH = 64
MAX_VALUES = 100_000
"""Of one file; the largest that people write have a few thousand."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE, _STRING = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class Document:
    """One YAML document: its plain `value`, the `file` it came from and the 1-based `line` where it starts."""

    def __init__(self, value: dict[str, object], file: str, line: int, lines: dict[str, int]) -> None:
        self.value, self.file, self.line = value, file, line
        self._lines = lines

    def line_of(self, path: str) -> int:
        """The line of a field such as `spec.ports[0].port`; of what it would stand in where it is not there."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.line

    def error(self, path: str, reason: str) -> ConfigError:
        """A ConfigError about the field at `path`, to be raised."""
        return ConfigError(reason, file=self.file, line=self.line_of(path), field=path)

    def __repr__(self) -> str:
        return f"<Document {self.file}:{self.line}>"


def load_documents(text: str, file: str) -> list[Document]:
    """All documents of a file that are not empty, in order. Raises ConfigError for what is not YAML or over a bound."""
    if len(text) > MAX_TEXT:
        raise ConfigError(f"is too long: {len(text)} characters, at most {MAX_TEXT}", file=file)
    try:
        _check_depth(text, file)
        loader = _Loader(text)
        try:
            return list(_Reader(loader, file).documents())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as exc:
        line = getattr(exc.problem_mark or exc.context_mark, "line", -1) + 1
        raise ConfigError(f"is not YAML: {exc.problem or exc.context}", file=file, line=line) from exc
    except (yaml.YAMLError, UnicodeError) as exc:
        raise ConfigError(f"is not YAML: {str(exc).splitlines()[0]}", file=file) from exc


def _check_depth(text: str, file: str) -> None:
    """Refuse deep nesting before anything recurses over it: the C parser would overflow its stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = getattr(event.start_mark, "line", -1) + 1
                raise ConfigError(f"is nested more than {MAX_DEPTH} levels deep", file=file, line=line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reader:
    """Turns YAML nodes into plain values and remembers on which line each field stood."""

    def __init__(self, loader: Any, file: str) -> None:
        self.loader, self.file = loader, file
        self.values = 0
        self.lines: dict[str, int] = {}

    def documents(self) -> Iterator[Document]:
        while self.loader.check_node():
            node = self.loader.get_node()
            line = node.start_mark.line + 1
            self.lines = {}
            value = self.read(node, "", 0)
            if isinstance(value, dict):
                yield Document(value, self.file, line, self.lines)
            elif value is not None:
                raise ConfigError("a document must be a mapping of fields", file=self.file, line=line)

    def read(self, node: yaml.Node, path: str, depth: int) -> object:
        self.values += 1
        if self.values > MAX_VALUES:
            raise self.error(node, "", f"the file holds over {MAX_VALUES} values, its aliases expanded")
        if depth > MAX_DEPTH:  # only an alias inside of its own anchor gets here
            raise self.error(node, "", f"is nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            raise self.error(node, path, f"has the tag {node.tag!r:.80}, which means nothing here")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            found = []
            for index, item in enumerate(node.value):
                place = f"{path}[{index}]"
                self.lines[place] = item.start_mark.line + 1
                found.append(self.read(item, place, depth + 1))
            return found
        try:
            value: object = self.loader.construct_object(node)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as exc:
            # PyYAML's own ways to say that a scalar is not of the kind that it looks like or is tagged as.
            raise self.error(node, path, f"{node.value!r:.80} cannot be read as {node.tag.rpartition(':')[2]}") from exc
        return value

    def mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, object]:
        own: dict[str, object] = {}
        merged: dict[str, object] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(source, yaml.MappingNode):
                        raise self.error(source, path, "`<<` takes a mapping or a list of mappings")
                    merged = self.read(source, path, depth + 1) | merged  # type: ignore[operator]
                continue
            if key.tag != _STRING:
                name = f"the key {key.value:.40}" if isinstance(key, yaml.ScalarNode) else "a key"
                raise self.error(key, path, f"{name} is not text: quote it")
            place = f"{path}.{key.value}" if path else key.value
            if key.value in own:
                raise self.error(key, place, "is given twice")
            own[key.value] = self.read(value, place, depth + 1)
            self.lines[place] = key.start_mark.line + 1
        return merged | own

    def error(self, node: yaml.Node, path: str, reason: str) -> ConfigError:
        return ConfigError(reason, file=self.file, line=node.start_mark.line + 1, field=path)
