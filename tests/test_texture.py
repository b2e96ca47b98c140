"""Ceilings that keep the code readable: what a line and a function may hold (CONTRIBUTING, "Code").

Tokens are counted instead of lines, so that a function cannot be made short by making it dense.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = (
    "actors",
    "cluster",
    "configs",
    "core",
    "data",
    "models",
    "ray_jobs",
    "rewards",
    "systems",
)
GUESTS = ("tiny", "tests", "benchmarks", "examples")

TOKENS_OF_A_FUNCTION = 250
TOKENS_OF_A_LINE = 30

# Tests and guests hold literal tables, whose numbers and brackets are many and easy to read.
TOKENS_OF_A_GUESTS_LINE = 60

# Functions above the ceiling, as "file:function", each with a reason. Better empty.
LONG_FUNCTIONS = {
    "actors/objective.py:grpo_loss": "the loss of a row, term by term, in the order of the formula",
    "ray_jobs/driver/evaluation.py:measured": "the one inference path, from samples to figures",
    "ray_jobs/train.py:learn_steps": "all steps of a run, and how a stop or a death ends them",
    "ray_jobs/train.py:train": "the training job, from opening a run to its summary",
    "ray_jobs/train.py:train_step": "the six stages of a step in one place",
}

COUNTED = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}


def files_of(folders: tuple[str, ...]) -> list[Path]:
    files: list[Path] = []
    for folder in folders:
        files += sorted((ROOT / folder).rglob("*.py"))
    return files


def docstring_lines(tree: ast.Module) -> set[int]:
    """Line numbers of all docstrings."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def tokens_by_line(source: str) -> Counter[int]:
    """Number of tokens of each line; comments and docstrings are free."""
    counts: Counter[int] = Counter()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in COUNTED:
            counts[token.start[0]] += 1
    for line in docstring_lines(ast.parse(source)):
        counts.pop(line, None)
    return counts


def tokens_of(node: ast.stmt, counts: Counter[int]) -> int:
    last = node.end_lineno or node.lineno
    return sum(counts[line] for line in range(node.lineno, last + 1))


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """Yield (qualified name, node) of every function; one inside another counts in both."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name, node
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize("folder", PRODUCT)
def test_functions(folder: str) -> None:
    problems = []
    for path in files_of((folder,)):
        where = str(path.relative_to(ROOT))
        source = path.read_text(encoding="utf-8")
        counts = tokens_by_line(source)
        for name, node in functions(ast.parse(source)):
            total = tokens_of(node, counts)
            if total > TOKENS_OF_A_FUNCTION and f"{where}:{name}" not in LONG_FUNCTIONS:
                problems.append(f"{where}:{node.lineno}: {name} has {total} tokens")
    assert not problems, "\n".join([f"at most {TOKENS_OF_A_FUNCTION} a function", *problems])


@pytest.mark.parametrize("folder", [*PRODUCT, *GUESTS])
def test_lines(folder: str) -> None:
    most = TOKENS_OF_A_LINE if folder in PRODUCT else TOKENS_OF_A_GUESTS_LINE
    problems = []
    for path in files_of((folder,)):
        where = str(path.relative_to(ROOT))
        for line, count in sorted(tokens_by_line(path.read_text(encoding="utf-8")).items()):
            if count > most:
                problems.append(f"{where}:{line}: {count} tokens")
    assert not problems, "\n".join([f"at most {most} a line", *problems])


def test_nothing_is_formatted_by_hand() -> None:
    """`ruff format` decides on every line, and a function with a name is a def."""
    problems = []
    for path in files_of((*PRODUCT, *GUESTS)):
        where = str(path.relative_to(ROOT))
        source = path.read_text(encoding="utf-8")
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and "fmt:" in token.string:
                problems.append(f"{where}:{token.start[0]}: {token.string}")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Lambda):
                problems.append(f"{where}:{node.lineno}: a lambda with a name")
    assert not problems, "\n".join(problems)


def test_exceptions_are_still_needed() -> None:
    for exception in LONG_FUNCTIONS:
        file, _, name = exception.partition(":")
        source = (ROOT / file).read_text(encoding="utf-8")
        found = dict(functions(ast.parse(source)))
        assert name in found, f"{exception} does not exist"
        total = tokens_of(found[name], tokens_by_line(source))
        assert total > TOKENS_OF_A_FUNCTION, f"{exception} has {total} tokens: remove the exception"
