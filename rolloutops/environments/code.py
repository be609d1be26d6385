"""Code: the Python program in the rollout passes the task's tests, run in a sandbox.

Rows hold their tests in one of these forms, or as the JSON text of one:

    tests            ["assert add(1, 2) == 3", ...] or one text of Python; also as `test_list` (MBPP)
    tests            [{"input": "1 2\\n", "output": "3\\n"}, ...]: standard input and what must be printed
    verifier_metadata.unit_tests   {"inputs": [...], "outputs": [...]} as in NeMo Gym's coding rows; also as
                     `unit_tests` or `input_output`. With "fn_name" the program is not run but that function called:
                     an input is one JSON value per line, an output the JSON value that it must return.
    solution, code   a program that passes, for the gold check (else the task's answer)

The program is the last block fenced as Python, else the last fenced block, else the whole text. White space at the ends
of printed lines is ignored, and numbers are compared as numbers (1 is 1.0).

NVIDIA-NeMo/Gym at commit 07d6b0d (resources_servers/code_gen/app.py) takes the text between the last two fences,
whatever their language, and gives 0 to a program without a fence or with `<think>` before it.

Programs and functions never see what they must print or return. Asserts run in the program's own process, so they do
not protect against code that cheats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rolloutops.environments import sandbox as box
from rolloutops.environments.answers import same, without_reasoning
from rolloutops.errors import UsageError
from rolloutops.types import Rollout, Task

VERSION = 1
"""Raised by whoever changes a reward: rollouts that an earlier version verified are then verified again."""

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
_PYTHON = ("python", "python3", "py")
_SLACK = 65_536
"""Bytes that are kept of an output beyond twice what is expected: what is longer is wrong whatever it says."""


@dataclass(frozen=True)
class Tests:
    """A task's tests. mode: `program`, `function` or `asserts`. expected: one output for each; none for asserts."""

    mode: str
    arguments: Sequence[Any]
    expected: Sequence[Any] = ()
    name: str | None = None


class Code:
    """See `make`."""

    runs = "process"

    def __init__(self, unsafe: bool, limits: Mapping[str, float], partial: bool) -> None:
        self.unsafe, self.limits, self.partial = unsafe, limits, partial
        self.longest = limits["seconds"] + 2 * box.SPARE

    def preflight(self) -> None:
        """Raise UsageError where there is no sandbox, and nobody said to go without."""
        why = box.missing()
        if why is not None and not self.unsafe:
            raise UsageError(
                f"environment 'code' runs programs that a model wrote, and there is no sandbox for them: {why}; "
                "install bubblewrap (the package is called bubblewrap), or run them with your permissions: "
                "--unsafe_code"
            )

    def verify(self, task: Task, rollout: Rollout) -> dict[str, Any]:
        """{"reward", "passed": tests passed, "tests", "passed_share", "status": `passed` or what became of the first
        test that failed, "failed_test": its place from 0, "message": what it said}."""
        tests = _tests(task.row)
        program = _program(rollout.text)
        results = _without_running(program, tests) or self._run(program, tests)
        passed = [result["status"] == "passed" for result in results]
        failed = next((n for n, good in enumerate(passed) if not good), None)
        first = results[failed] if failed is not None else {"status": "passed", "message": ""}
        share = sum(passed) / len(passed)
        return {
            "reward": share if self.partial else float(failed is None),
            "passed": sum(passed),
            "tests": len(passed),
            "passed_share": share,
            "status": first["status"],
            "failed_test": failed,
            "message": first["message"],
        }

    def gold(self, task: Task) -> str | None:
        """The row's own program in a fence; None where it has none."""
        for name in ("solution", "code", "canonical_solution"):
            if isinstance(task.row.get(name), str):
                return f"```python\n{task.row[name]}\n```"
        return f"```python\n{task.answer}\n```" if task.answer else None

    def _run(self, program: str, tests: Tests) -> list[dict[str, Any]]:
        job = {
            "code": program,
            "mode": tests.mode,
            "tests": tests.arguments,
            "name": tests.name,
            "keep": [2 * len(str(text).encode()) + _SLACK for text in tests.expected],
            "seconds": self.limits["seconds"],
            "test_seconds": self.limits["test_seconds"],
            "memory": int(self.limits["memory_mb"] * 2**20),
            "output": int(self.limits["output_kb"] * 2**10),
        }
        results = box.run(job, sandboxed=box.missing() is None or not self.unsafe)
        return [_compared(tests, n, result) for n, result in enumerate(results)]


def make(
    unsafe_code: bool = False,
    seconds: float = 30.0,
    test_seconds: float = 6.0,
    memory_mb: int = 1024,
    output_kb: int = 1024,
    partial: bool = False,
) -> Code:
    """An environment that runs programs against tests, in bubblewrap: without network, on a read-only system.

    unsafe_code: run programs without bubblewrap; the limits apply, but they can read and write what you can.
    seconds: time limit of all tests of a rollout, in seconds. test_seconds: CPU time limit of one test, or of all
    asserts, in seconds. memory_mb: memory limit of a program, in MB. output_kb: maximum output, and maximum size of a
    file, in KB. partial: the reward is the share of tests passed, instead of 1.0 only if all pass.
    """
    for name, value in (("seconds", seconds), ("test_seconds", test_seconds), ("memory_mb", memory_mb)):
        if value <= 0:
            raise UsageError(f"environment 'code': {name} must be more than 0, not {value}")
    limits = {"seconds": seconds, "test_seconds": test_seconds, "memory_mb": memory_mb, "output_kb": output_kb}
    return Code(unsafe_code, limits, partial)


def _program(text: str) -> str:
    text = without_reasoning(text)
    blocks = [(match[2].lower(), match[3]) for match in _FENCE.finditer(text)]
    python = [code for language, code in blocks if language in _PYTHON]
    if python or blocks:
        return (python or [code for _, code in blocks])[-1]
    return text


def _without_running(program: str, tests: Tests) -> list[dict[str, Any]] | None:
    """The results of what is not a program at all."""
    why = ""
    try:
        compile(program, "solution.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = f"{type(error).__name__}: {error}"[:500]
    if not program.strip():
        why = "the rollout holds no program"
    return [{"status": "no_program", "message": why}] * len(tests.arguments) if why else None


def _compared(tests: Tests, n: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """A test's result: `passed` where it ended well with what was expected."""
    if result["status"] != "ok":
        return {"status": result["status"], "message": result["message"]}
    if tests.mode == "asserts":
        return {"status": "passed", "message": ""}
    given, wanted = result["output"], tests.expected[n]
    good = _equal_values(given, wanted) if tests.mode == "function" else _equal_texts(given, _text(wanted))
    return {"status": "passed" if good else "wrong_answer", "message": "" if good else f"it gave {given[:200]!r}"}


def _equal_texts(value: str, wanted: str) -> bool:
    lines, wanted_lines = value.strip().splitlines(), wanted.strip().splitlines()
    if len(lines) != len(wanted_lines):
        return False
    for line, other in zip(lines, wanted_lines, strict=True):
        if line.strip() == other.strip():
            continue
        words, others = line.split(), other.split()
        if len(words) != len(others) or not all(map(same, words, others)):
            return False
    return True


def _equal_values(value: str, wanted: Any) -> bool:
    try:
        return bool(json.loads(value) == (json.loads(wanted) if isinstance(wanted, str) else wanted))
    except ValueError:
        return False


def _text(value: Any) -> str:
    """A test's input or output as text: a list is its lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _tests(row: Mapping[str, Any]) -> Tests:
    """A row's tests. Raises ValueError where it has none, or some in no known shape."""
    about = row.get("verifier_metadata")
    nested = about.get("unit_tests") if isinstance(about, Mapping) else None
    places = (row.get("tests"), row.get("test_list"), nested, row.get("unit_tests"), row.get("input_output"))
    given = next((place for place in places if place), None)
    if given is None:
        raise ValueError("the task has no tests: it needs 'tests', or 'verifier_metadata.unit_tests'")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = [given]
    if isinstance(given, Mapping):
        inputs, outputs, name = given.get("inputs"), given.get("outputs"), given.get("fn_name")
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
            raise ValueError("the task's unit_tests need two lists of one length, 'inputs' and 'outputs'")
        if name:
            return Tests("function", inputs, outputs, str(name))
        return Tests("program", [_text(text) for text in inputs], outputs)
    if isinstance(given, list) and all(isinstance(test, str) for test in given):
        setup = row.get("test_setup_code")
        return Tests("asserts", [*([setup] if isinstance(setup, str) and setup.strip() else []), *given])
    if isinstance(given, list) and all(
        isinstance(test, Mapping) and {"input", "output"} <= set(test) for test in given
    ):
        return Tests("program", [_text(test["input"]) for test in given], [test["output"] for test in given])
    raise ValueError("the task's tests are neither Python code nor pairs of 'input' and 'output'")
