"""A plugin's Python: fresh each time, told what it may know, and blamed by file and line."""

import sys

import pytest

from mesh.control.entry_point import MAX_POLICIES, PREFIX, View, WorkloadView, call, frozen
from mesh.model.resources import EntryPoint

WEB = WorkloadView("web", "demo", "web", "web", "web.demo.id", frozen({"team": "a"}), frozen({}))
VIEW = View((WEB,), (), ("demo",))


@pytest.fixture
def plugin(tmp_path):
    """Call it with the text of rules.py, or of other files, to have `rules:policies` called."""

    def run(text="", files=None, *, function="rules:policies", options=None):
        for name, content in {**({"rules.py": text} if text else {}), **(files or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        return call(EntryPoint(function, ".", options or {}), tmp_path, VIEW)

    return run


def one(word):
    """A plugin that returns one mapping with this word in it."""
    return f"def policies(view, options): return [{{'kind': '{word}'}}]\n"


def test_it_gets_the_view_and_its_options(plugin):
    """What the mesh is made of, and the resource's options as they stand there; a generator will do."""
    compiled = plugin(
        "def policies(view, options):\n"
        "    for w in view.workloads:\n"
        "        yield {'kind': w.name, 'spec': {'team': w.labels['team'], 'ns': view.namespaces, **options}}\n",
        options={"deep": [1, {"x": None}]},
    )
    spec = {"team": "a", "ns": ["demo"], "deep": [1, {"x": None}]}
    assert compiled.policies == [{"apiVersion": "conduit.mesh/v1alpha1", "kind": "web", "spec": spec}]
    assert compiled.error is None


def test_structs_are_policies_too(tmp_path):
    """A plugin that imports our structs returns them."""
    (tmp_path / "rules.py").write_text(
        "from mesh.model.authorization import Default\n"
        "from mesh.model.resources import *\n"
        "def policies(view, options):\n"
        "    spec = DefaultPolicySpec(Target(TargetKind.NAMESPACE), Default.DENY)\n"
        "    return (DefaultPolicy(Metadata('d', 'demo'), spec),)\n"
    )
    compiled = call(EntryPoint("rules:policies", "."), tmp_path, VIEW)
    assert compiled.policies == [
        {
            "apiVersion": "conduit.mesh/v1alpha1",
            "kind": "DefaultPolicy",
            "metadata": {"name": "d", "namespace": "demo"},
            "spec": {"target": {"kind": "Namespace"}, "inbound": "deny"},
        }
    ]


def test_each_call_takes_the_source_as_it_is(plugin):
    """Edits of equal length within one second, in the module and in what it imports relatively: the newest counts."""
    for word in ("first", "other", "third"):
        assert plugin(one(word)).policies[0]["kind"] == word
    main = (
        "from . import part\nfrom .pack import deep\ndef policies(view, options): return [{'kind': part.X + deep.Y}]\n"
    )
    for word in ("first", "other"):
        compiled = plugin(main, {"part.py": f"X = '{word}'\n", "pack/__init__.py": "", "pack/deep.py": "Y = '!'\n"})
        assert compiled.policies[0]["kind"] == f"{word}!"
        assert {file.rpartition("/")[2] for file in compiled.files} >= {"rules.py", "part.py", "deep.py"}


def test_nothing_is_left_behind(plugin, tmp_path):
    """No module in memory, no bytecode on disk."""
    plugin(one("x"))
    assert [name for name in sys.modules if name.startswith(PREFIX)] == []
    assert not list(tmp_path.rglob("*.pyc"))


def test_a_package_and_an_attribute_may_be_named(plugin):
    """`pack.deep:Class.method` is found below the folder."""
    text = "class Rules:\n    @staticmethod\n    def all(view, options): return []\n"
    compiled = plugin("", {"pack/__init__.py": "", "pack/deep.py": text}, function="pack.deep:Rules.all")
    assert (compiled.policies, compiled.error) == ([], None)


def test_the_view_cannot_be_changed(plugin):
    """Neither names nor labels: what one plugin does, another does not see."""
    changes = "view.workloads[0].labels['team'] = 'b'", "view.workloads[0].name = 'x'", "view.namespaces = ()"
    for change in changes:
        compiled = plugin(f"def policies(view, options):\n    {change}\n    return []\n")
        assert compiled.error is not None
        assert compiled.error.line == 2
    assert WEB.labels == {"team": "a"}


def test_what_is_returned_is_a_copy(plugin):
    """A list that the plugin still changes later is not what is in force."""
    compiled = plugin(
        "KEPT = {'kind': 'x', 'spec': {'a': [1]}}\n"
        "def policies(view, options):\n    yield KEPT\n    KEPT['spec']['a'].append(2)\n"
    )
    assert compiled.policies[0]["spec"] == {"a": [1, 2]}  # taken when it is done, and then no more
    assert plugin("def policies(view, options): return ({'kind': (1, 2)},)\n").policies[0]["kind"] == [1, 2]


@pytest.mark.parametrize(
    ("text", "file", "line", "words"),
    [
        ("def policies(view, options):\n    return view.nothing\n", "rules.py", 2, "AttributeError"),
        ("def policies(view, options):\n    yield {}\n    raise KeyError('team')\n", "rules.py", 3, "KeyError: 'team'"),
        ("import sys\ndef policies(view, options):\n    sys.exit(3)\n", "rules.py", 3, "SystemExit: 3"),
        ("def policies(view, options):\n  x = = 1\n", "rules.py", 2, "SyntaxError"),
        ("\nimport nothing_of_this_name\n", "rules.py", 2, "ModuleNotFoundError"),
        ("raise OSError\n", "rules.py", 1, "OSError"),
        ("def policies(view): return []\n", "", 0, "TypeError"),
        ("policies = 7\n", "", 0, "not callable"),
        ("def other(): pass\n", "", 0, "policies"),
        ("def policies(view, options): return 'words'\n", "", 0, "returned str, not policies"),
        ("def policies(view, options): return {'kind': 'x'}\n", "", 0, "returned dict, not policies"),
        ("def policies(view, options): return None\n", "", 0, "returned NoneType, not policies"),
        ("def policies(view, options): return [7]\n", "", 0, "returned int as policy 0"),
        ("def policies(view, options): return [{'kind': object()}]\n", "", 0, "object"),
        ("def policies(view, options):\n    while True: yield {}\n", "", 0, f"more than {MAX_POLICIES}"),
        ("def policies(view, options): return [{'kind': 'x' * 2_000_000}]\n", "", 0, "bytes of policies"),
    ],
)
def test_what_goes_wrong_is_told(plugin, text, file, line, words):
    """One error, with the plugin's file and line where it happened in there, and the file is known to be looked at."""
    compiled = plugin(text)
    assert compiled.policies == []
    assert words in str(compiled.error)
    assert (compiled.error.file.rpartition("/")[2], compiled.error.line) == (file, line)
    assert any(each.endswith("/rules.py") for each in compiled.files)


def test_a_mistake_in_what_is_imported_is_told_there(plugin):
    """The file beside it that is wrong is named, and is looked at from then on."""
    compiled = plugin("from . import part\n", {"part.py": "x = (\n"})
    assert (compiled.error.file.rpartition("/")[2], compiled.error.line) == ("part.py", 1)
    assert any(each.endswith("/part.py") for each in compiled.files)


def test_what_is_not_there_is_told(plugin, tmp_path):
    """No folder, no module in it, no installed one."""
    assert "no module rules in" in str(plugin().error)
    assert "there is no folder" in str(call(EntryPoint("a:b", "x"), tmp_path / "x", VIEW).error)
    assert "no module nothing_such" in str(call(EntryPoint("nothing_such:b"), None, VIEW).error)


def test_an_installed_module_is_loaded_anew(tmp_path, monkeypatch):
    """Without a folder, whatever Python finds; an edit of equal length within one second counts as well."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "installed_rules", raising=False)
    try:
        for word in ("first", "other"):
            (tmp_path / "installed_rules.py").write_text(one(word))
            compiled = call(EntryPoint("installed_rules:policies"), None, VIEW)
            assert (compiled.policies[0]["kind"], compiled.error) == (word, None)
            assert compiled.files == (str(tmp_path / "installed_rules.py"),)
        (tmp_path / "installed_rules.py").write_text("x = = 1")
        compiled = call(EntryPoint("installed_rules:policies"), None, VIEW)
        assert "SyntaxError" in str(compiled.error)
        assert compiled.files == (str(tmp_path / "installed_rules.py"),)
    finally:
        sys.modules.pop("installed_rules", None)
