"""What a recipe asks of a build besides its step's own parameters: where, in which files, split how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolloutops.config.paths import as_output
from rolloutops.config.plan import Plan
from rolloutops.config.recipe import StepUse
from rolloutops.errors import UsageError, did_you_mean
from rolloutops.steps.step import BUILD_KEYS, Step, check_step

FORMATS = ("jsonl", "parquet")
COMPRESSIONS = ("none", "zstd", "gzip")
ENDINGS = {"none": "", "zstd": ".zst", "gzip": ".gz"}
"""How the names of compressed JSON lines end. Parquet is compressed within."""

PROMPT = "prompt"
"""The split_by of a build that names none: its step's split_key, the hash of the prompt."""


@dataclass(frozen=True)
class BuildOptions:
    """A build's own keys, checked. validation, test: shares of the prompts. split_by: `prompt` or a column.

    max_shard_rows, max_shard_bytes: lines, and bytes of lines before compression, of one file; None is no limit.
    """

    output: Path
    format: str = "jsonl"
    compression: str = "none"
    max_shard_rows: int | None = None
    max_shard_bytes: int | None = None
    validation: float = 0.0
    test: float = 0.0
    split_by: str = PROMPT
    seed: int = 42
    allow_empty: bool = False
    drop_invalid: bool = False
    report: bool = True

    @property
    def splits(self) -> list[str]:
        """The splits that have a file."""
        return ["train", *(["validation"] if self.validation > 0 else []), *(["test"] if self.test > 0 else [])]

    @property
    def ending(self) -> str:
        """How the names of the data files end."""
        return ".parquet" if self.format == "parquet" else f".jsonl{ENDINGS[self.compression]}"


def options_of(use: StepUse, step: Step, default: Path | None = None) -> BuildOptions:
    """The build's own keys. default: the folder, where the step names none. Raises UsageError for nonsense."""
    where = f"[{use.kind}.{use.name}]"
    given: dict[str, Any] = {name: value for name, value in use.settings.items() if name in BUILD_KEYS}
    output = given.get("output") or default
    if not output:
        raise UsageError(f'{where} output is missing: the folder to write, as output = "data/demo/exports/{use.name}"')
    asked = BuildOptions(**{"format": step.notes.get("format", "jsonl"), **given, "output": as_output(output)})
    for name, value, known in (("format", asked.format, FORMATS), ("compression", asked.compression, COMPRESSIONS)):
        if value not in known:
            raise UsageError(
                f"{where} {name} must be {' or '.join(map(repr, known))}, not {value!r}{did_you_mean(value, known)}"
            )
    _refuse_shares(given, asked, where)
    for name in ("max_shard_rows", "max_shard_bytes"):
        if given.get(name, 1) < 1:
            raise UsageError(f"{where} {name} must be 1 or more, not {given[name]}")
    return asked


def _refuse_shares(given: Mapping[str, Any], asked: BuildOptions, where: str) -> None:
    for name in ("validation", "test"):
        share = float(given.get(name, 0.0))
        if not 0 <= share < 1:
            raise UsageError(f"{where} {name} must be a share from 0 to below 1, not {share}")
    if asked.validation + asked.test >= 1:
        raise UsageError(f"{where} validation + test is {asked.validation + asked.test}: nothing is left to train on")


def check_use(plan: Plan, use: StepUse) -> Step:
    """A step of a recipe. Raises what can be known to be wrong with it, or a build's keys, before it runs."""
    step = check_step(use, plan.folder)
    if use.kind == "build":
        options_of(use, step, plan.exports(use))
    return step
