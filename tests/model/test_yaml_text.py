"""YAML with its lines, and the YAML that is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.errors import ConfigError
from mesh.model.yaml_text import MAX_TEXT, load_documents

TEXT = """\
# words
kind: A
spec:
  ports:
    - name: http
      port: 80
    - {name: admin,
       port: 81}
  hosts: {votes.demo: {weight: 1}}
---
---
# nothing here
---
kind: B
"""

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_documents_and_their_lines() -> None:
    """Each document that is not empty comes with where it starts and where its fields stand."""
    first, second = load_documents(TEXT, "mesh.yaml")
    assert (first.line, second.line) == (2, 14)
    assert first.value["spec"] == {
        "ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}],
        "hosts": {"votes.demo": {"weight": 1}},
    }
    lines = {
        "kind": 2,
        "spec": 3,
        "spec.ports": 4,
        "spec.ports[0]": 5,
        "spec.ports[0].port": 6,
        "spec.ports[1].port": 8,
        "spec.hosts.votes.demo.weight": 9,
        "spec.ports[1].protocol": 7,
        "spec.ports[7].port": 4,
        "status.x": 2,
        "": 2,
    }
    assert {path: first.line_of(path) for path in lines} == lines
    assert repr(second) == "<Document mesh.yaml:14>"
    assert load_documents("", "f") == load_documents("# only words\n---\n", "f") == []


def test_aliases_and_merge_keys() -> None:
    """Both mean what YAML says: a field of one's own beats a merged one, the first merged one the later ones."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\nd: {<<: *b}\ne: *a\n"
    (document,) = load_documents(text, "f")
    assert document.value["c"] == {"x": 3, "y": 1, "z": 2}
    assert document.value["d"] == {"y": 2, "z": 2}
    assert document.value["e"] == {"x": 1, "y": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {a: 1\nc: 2\n", "f:3: is not YAML: did not find expected ',' or '}'"),
        ("a: 1\n\tb: 2\n", "f:2: is not YAML: found a tab character that violates indentation"),
        ("a: *nobody\n", "f:1: is not YAML: found undefined alias"),
        ("a:\n  x: 1\n  y: 2\n  x: 3\n", "f:4: a.x: is given twice"),
        ("- a\n- b\n", "f:1: a document must be a mapping of fields"),
        ("a: 1\n---\nwords\n", "f:3: a document must be a mapping of fields"),
        ("a:\n  8080: x\n", "f:2: a: the key 8080 is not text: quote it"),
        ("? [a]\n: 1\n", "f:1: a key is not text: quote it"),
        ("a: {<<: 3}\n", "f:1: a: `<<` takes a mapping or a list of mappings"),
        ("x: 1\na: 2026-99-99\n", "f:2: a: '2026-99-99' cannot be read as timestamp"),
        ("a: !!bool maybe\n", "f:1: a: 'maybe' cannot be read as bool"),
        ("a: !!int ''\n", "f:1: a: '' cannot be read as int"),
        (
            "a: !!python/object/apply:os.system [x]\n",
            "f:1: a: has the tag 'tag:yaml.org,2002:python/object/apply:os.system', which means nothing here",
        ),
        (
            "a: !mine x\n",
            "f:1: is not YAML: could not determine a constructor for the tag '!mine'",
        ),
        ("a: \x01\n", "f: is not YAML: unacceptable character #x0001: control characters are not allowed"),
        ("a: \ud800\n", "f: is not YAML: "),
        (f"a: {'x' * MAX_TEXT}", f"f: is too long: {MAX_TEXT + 3} characters, at most {MAX_TEXT}"),
        ("a:\n " + "[" * 100_000, "f:2: is nested more than 64 levels deep"),
        ("- " * 1000 + "x", "f:1: is nested more than 64 levels deep"),
        ("a: &a [*a]\n", "f:1: is nested more than 64 levels deep"),
        (BOMB, "f:1: the file holds over 100000 values, its aliases expanded"),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, message: str) -> None:
    """What is not YAML, is ambiguous, or would blow up is refused with file, line and reason."""
    with pytest.raises(ConfigError) as caught:
        load_documents(text, "f")
    assert str(caught.value).startswith(message)
    assert message in (str(caught.value), "f: is not YAML: ")


@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"#%@\n \t,?<~0.1"), max_size=60) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but ConfigError comes out of any text."""
    try:
        documents = load_documents(text, "f")
    except ConfigError as error:
        documents, file = [], error.file
    else:
        file = "f"
    assert file == "f"
    assert all(isinstance(document.value, dict) for document in documents)
