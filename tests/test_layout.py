"""The shape of the repository: mirrored tests, small files, names that say something.

Each check is a pure function from a folder to a list of complaints, so that it is itself
tested below on small made-up trees before it judges the real one.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAX_LINES = 600
UNTESTED_CODE_LINES = 15  # in functions; a module with less is a declaration, tested where it is used
FORBIDDEN_NAMES = ("utils.py", "util.py", "helpers.py", "helper.py", "manager.py", "common.py", "misc.py")
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")

# Modules without a mirrored test, each with the tests that cover it instead.
TESTED_ELSEWHERE: dict[str, str] = {}


# --- the checks ------------------------------------------------------------------------


def modules(root: Path, *folders: str) -> Iterator[tuple[str, Path]]:
    """Each Python file under the folders: its path relative to root, in slashes, and the file."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
                yield path.relative_to(root).as_posix(), path


def code_lines(source: str) -> int:
    """Count the lines of functions that do something: no docstring, comment or blank line, no declaration."""
    functions: set[int] = set()
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not does_nothing(node.body):
            functions |= lines_of(node)
        if isinstance(node, ast.Expr) and is_docstring(node):
            docstrings |= lines_of(node)
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code & functions - docstrings)


def lines_of(node: ast.stmt) -> set[int]:
    """The numbers of the lines that a statement spans."""
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def is_docstring(node: ast.stmt | None) -> bool:
    """Say whether the statement is a bare string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def without_mirrored_test(root: Path, exceptions: Mapping[str, str]) -> list[str]:
    """mesh/a/b.py needs tests/a/test_b.py (or test_b_*.py) unless it is short or excepted; no stale exceptions."""
    complaints = []
    untested = set()
    for name, path in modules(root, "mesh"):
        if path.name == "__init__.py" or code_lines(path.read_text()) <= UNTESTED_CODE_LINES:
            continue
        folder = root / "tests" / path.relative_to(root / "mesh").parent
        if not (folder / f"test_{path.name}").exists() and not list(folder.glob(f"test_{path.stem}_*.py")):
            untested.add(name)
            if name not in exceptions:
                complaints.append(f"{name}: no {(folder / f'test_{path.name}').relative_to(root).as_posix()}")
    complaints += [f"{name}: a stale exception" for name in exceptions if name not in untested]
    return complaints


def too_long(root: Path) -> list[str]:
    """No module of ours is longer than can be read in one sitting."""
    counts = ((name, len(path.read_text().splitlines())) for name, path in modules(root, "mesh"))
    return [f"{name}: {count} lines, at most {MAX_LINES}" for name, count in counts if count > MAX_LINES]


def badly_named(root: Path) -> list[str]:
    """A file is named by its role; a drawer for odds and ends has none."""
    return [name for name, path in modules(root, "mesh", "tests", "bench") if path.name in FORBIDDEN_NAMES]


def logic_in_init(root: Path) -> list[str]:
    """An __init__.py says what its package is, and does nothing."""
    complaints = []
    for name, path in modules(root, "mesh"):
        if path.name == "__init__.py":
            body = ast.parse(path.read_text()).body
            if len(body) != 1 or not is_docstring(body[0]):
                complaints.append(f"{name}: more than a docstring")
    return complaints


def without_docstring(root: Path) -> list[str]:
    """Every module states its purpose at its top."""
    return [
        name
        for name, path in modules(root, "mesh", "tests", "bench")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]


def untold_tests(root: Path) -> list[str]:
    """Every test says in a sentence what must hold."""
    return [
        f"{name}:{node.lineno} {node.name}"
        for name, path in modules(root, "tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]


def swallowed_errors(root: Path) -> list[str]:
    """Nobody catches everything and does nothing about it."""
    return [
        f"{name}:{node.lineno}"
        for name, path in modules(root, "mesh", "tests", "bench", "examples")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node.type) and does_nothing(node.body)
    ]


def catches_everything(kind: ast.expr | None) -> bool:
    """Bare, or naming Exception or BaseException, alone or in a tuple."""
    if isinstance(kind, ast.Tuple):
        return any(catches_everything(element) for element in kind.elts)
    return kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"})


def does_nothing(body: list[ast.stmt]) -> bool:
    """Only pass, `...`, continue or a string."""
    return all(
        isinstance(node, ast.Pass | ast.Continue)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in body
    )


def unfinished(root: Path) -> list[str]:
    """What is not done stands in an issue, not in a comment."""
    return [
        f"{name}:{number}"
        for name, path in modules(root, "mesh", "tests", "bench", "examples")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNFINISHED.search(line)
    ]


# --- the checks, checked ---------------------------------------------------------------

DOC = '"""Purpose."""\n'
SHORT = DOC + "def f():\n" + "    x = 1\n" * (UNTESTED_CODE_LINES - 1)
LONG = SHORT + "    x = 1\n"


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Call it with {path: text} for a folder that holds those files."""

    def plant(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return plant


Plant = Callable[[dict[str, str]], Path]


def test_code_lines_counts_what_functions_do() -> None:
    """Docstrings, comments, blank lines, declarations and Protocol methods are free; the rest of a function counts."""
    assert code_lines('"""Doc."""\nX = [\n    1,\n]\nclass C:\n    field: int = 0\n') == 0
    assert code_lines('class P:\n    def f(self) -> int: ...\n    def g(self):\n        """Doc."""\n') == 0
    assert code_lines('def f():\n    """Doc,\n    long."""\n\n    # why\n    return """a\nb"""\n') == 3
    assert code_lines("class C:\n    async def f(self):\n        return [\n            1,\n        ]\n") == 4
    assert code_lines("") == 0


def test_mirror_wants_a_test_for_each_long_module(tree: Plant) -> None:
    """A long module without a test is named; one with a test, a prefixed test or a short one is not."""
    root = tree(
        {
            "mesh/wire/lonely.py": LONG,
            "mesh/wire/tested.py": LONG,
            "tests/wire/test_tested.py": "",
            "mesh/wire/split.py": LONG,
            "tests/wire/test_split_strict.py": "",
            "mesh/wire/short.py": SHORT,
            "mesh/wire/__init__.py": LONG,
        }
    )
    assert without_mirrored_test(root, {}) == ["mesh/wire/lonely.py: no tests/wire/test_lonely.py"]


def test_mirror_exceptions_excuse_and_go_stale(tree: Plant) -> None:
    """An exception excuses its module, and is itself a complaint once the module has a test."""
    root = tree({"mesh/a.py": LONG, "mesh/b.py": LONG, "tests/test_b.py": ""})
    assert without_mirrored_test(root, {"mesh/a.py": "why"}) == []
    assert without_mirrored_test(root, {"mesh/a.py": "why", "mesh/b.py": "was true once"}) == [
        "mesh/b.py: a stale exception"
    ]


def test_too_long_names_the_file_and_its_length(tree: Plant) -> None:
    """The bound itself is allowed, one line more is not."""
    root = tree({"mesh/a.py": "#\n" * MAX_LINES, "mesh/b.py": "#\n" * (MAX_LINES + 1)})
    assert too_long(root) == ["mesh/b.py: 601 lines, at most 600"]


def test_badly_named_finds_drawers(tree: Plant) -> None:
    """A forbidden name is found at any depth; a name that merely contains one is not."""
    root = tree({"mesh/a/utils.py": "", "mesh/manager.py": "", "mesh/stream_utils_proof.py": ""})
    assert badly_named(root) == ["mesh/a/utils.py", "mesh/manager.py"]


@pytest.mark.parametrize("text", ["", "x = 1\n", DOC + "from a import b\n", "1\n"])
def test_logic_in_init_wants_a_docstring_alone(tree: Plant, text: str) -> None:
    """Empty, code, or a docstring with code after it are refused."""
    root = tree({"mesh/a/__init__.py": text, "mesh/b/__init__.py": DOC, "mesh/c.py": text})
    assert logic_in_init(root) == ["mesh/a/__init__.py: more than a docstring"]


def test_without_docstring_names_modules(tree: Plant) -> None:
    """A comment is no docstring."""
    root = tree({"mesh/a.py": "# words\n", "mesh/b.py": DOC})
    assert without_docstring(root) == ["mesh/a.py"]


def test_untold_tests_names_tests(tree: Plant) -> None:
    """Sync, async and nested in a class: each test needs its sentence, and other functions do not."""
    text = "def test_a(): ...\nasync def test_b(): ...\nclass T:\n    def test_c(self): 'told'\ndef helper(): ...\n"
    assert untold_tests(tree({"tests/test_x.py": text})) == ["tests/test_x.py:1 test_a", "tests/test_x.py:2 test_b"]


@pytest.mark.parametrize("kind", ["", " Exception", " BaseException", " (OSError, Exception)", " Exception as e"])
@pytest.mark.parametrize("body", ["pass", "...", "continue", "'words'"])
def test_swallowed_errors_are_found(tree: Plant, kind: str, body: str) -> None:
    """Every way to catch all and do nothing is found."""
    text = f"for _ in ():\n    try:\n        x()\n    except{kind}:\n        {body}\n"
    assert swallowed_errors(tree({"mesh/a.py": text})) == ["mesh/a.py:4"]


@pytest.mark.parametrize(
    "clause", ["except OSError: pass", "except Exception: report()", "except (OSError, KeyError): pass"]
)
def test_handled_errors_are_not(tree: Plant, clause: str) -> None:
    """A named error may be passed over, and anything may be reported."""
    assert swallowed_errors(tree({"mesh/a.py": f"try: x()\n{clause}\n"})) == []


def test_unfinished_finds_marks(tree: Plant) -> None:
    """The usual marks are found as words, not inside of words."""
    root = tree({"mesh/a.py": "# TO" + "DO later\n", "mesh/b.py": "# FIX" + "ME\n", "mesh/c.py": "METO" + "DOS = 1\n"})
    assert unfinished(root) == ["mesh/a.py:1", "mesh/b.py:1"]


# --- the repository itself -------------------------------------------------------------


def test_every_exception_has_its_reason() -> None:
    """A module is excused from having a mirrored test only with a reason in words."""
    assert [name for name, reason in TESTED_ELSEWHERE.items() if len(reason.split()) < 3] == []


def test_modules_have_mirrored_tests() -> None:
    """A module's tests are where its reader looks for them."""
    assert without_mirrored_test(ROOT, TESTED_ELSEWHERE) == []


@pytest.mark.parametrize(
    "check",
    [too_long, badly_named, logic_in_init, without_docstring, untold_tests, swallowed_errors, unfinished],
    ids=lambda check: check.__name__,
)
def test_the_repository_keeps_its_rules(check: Callable[[Path], list[str]]) -> None:
    """No complaint about any file of this checkout."""
    assert check(ROOT) == []
