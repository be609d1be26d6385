"""Names are the field's words: no replaced word names anything, and no participle is in a signature."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import CHECKOUT

REPLACED = {
    "flight": "window",
    "fly": "run",
    "land": "stop, record",
    "ticket": "permit",
    "funnel": "stats",
    "ledger": "pending rollouts",
    "desk": "context",
    "purse": "spend limit",
    "till": "shared counter",
    "alarm": "deadline",
    "health": "circuit breaker",
    "told": "advertised limit, or what it is: answer, rows, usage",
    "spelled": "to_json_safe",
    "meant": "from_json_safe",
    "companions": "sidecars",
    "elsewhere": "remote verifier, or another server",
    "judge": "verifier: a judge is an LLM",
    "judges": "verifiers",
    "judged": "verified",
    "unjudged": "unverified",
    "owed": "pending",
    "gate": "lint gate",
    "near": "did_you_mean",
    "level": "concurrency limit",
    "width": "concurrency limit",
}
"""Word -> the one in its place. The words of one name are what underscores and capitals part."""

PARTICIPLES = {
    *("asked", "given", "told", "said", "owed", "judged", "unjudged", "landed", "found", "made", "kept", "shown"),
    *("taken", "meant", "spelled", "tried", "named", "written", "held"),
}
"""Words that say nothing of what a parameter or function is."""

ALLOWED = {
    # Widths of terminals and plots.
    ("layout.py", "width"),
    ("cli/help.py", "width"),
    ("build/report/plots.py", "width"),
    ("build/report/plots.py", "width_of"),
    ("build/report/figures.py", "width"),
    # Sides of a plot's lines that lie near each other.
    ("build/report/plots.py", "near"),
    # The gate of the linter, by its whole name.
    ("build/lint_gate.py", "lint_gate"),
    # The column `kept` of a selection.
    ("steps/selection.py", "kept"),
}
"""(file, name): what means what the field means."""

JUDGES = {"environments/llm_judge.py"}
"""Files in which a judge is an LLM."""


def words(name: str) -> list[str]:
    """The words of a name: `in_flight` and `InFlight` have two."""
    parted = "".join(f"_{letter}" if letter.isupper() else letter for letter in name) if not name.isupper() else name
    return [word for word in parted.lower().split("_") if word]


def modules() -> Iterator[tuple[str, ast.Module]]:
    root = CHECKOUT / "rolloutops"
    for path in sorted(root.rglob("*.py")):
        yield str(path.relative_to(root)), ast.parse(path.read_text(encoding="utf-8"))


def names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Each name that a module gives: of functions, classes, parameters, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def is_allowed(file: str, name: str) -> bool:
    return (file, name.strip("_").lower()) in ALLOWED or (file in JUDGES and "judge" in name.lower())


def test_no_name_is_a_word_that_was_replaced() -> None:
    found = []
    for file, tree in modules():
        for name, line in names(tree):
            parts = words(name)
            # Of several words only those count that mean the same in any company: `in_flight` is the field's.
            bad = [part for part in parts if part in REPLACED and (len(parts) == 1 or part in ALWAYS)]
            if bad and not is_allowed(file, name):
                found.append(f"rolloutops/{file}:{line}: {name}: say {REPLACED[bad[0]]}")
    assert not found, "\n".join(found)


ALWAYS = {"ticket", "funnel", "ledger", "desk", "purse", "alarm", "unjudged", "owed", "companions", "told"}
"""Words that no longer name have either."""


def test_no_participle_stands_in_a_signature() -> None:
    found = []
    for file, tree in modules():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name == "make":
                continue
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            found += [
                f"rolloutops/{file}:{node.lineno}: {name} in {node.name}"
                for name in [node.name, *(argument.arg for argument in given)]
                if name.strip("_") in PARTICIPLES and not is_allowed(file, name)
            ]
    assert not found, "\n".join(found)


def test_the_lists_hold_what_is_there() -> None:
    """What is allowed is used: an entry that nothing needs is taken out."""
    used = {(file, name.strip("_").lower()) for file, tree in modules() for name, _ in names(tree)}
    assert used >= ALLOWED, "allowed, and used no more"
    assert Path(CHECKOUT / "rolloutops" / next(iter(JUDGES))).is_file()
