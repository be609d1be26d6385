"""What a manifest holds, as types: written by `manifest.py`, read by the card, the page, croissant.json and `trace`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

ReportRow = Mapping[str, Any]
"""A row of a report that a step declares; its columns are those of the step's SQL."""


class ManifestFile(TypedDict):
    """A file of the build. split: of data files alone."""

    name: str
    split: NotRequired[str]
    rows: int
    bytes: int
    sha256: str


StepSource = TypedDict(
    "StepSource",
    {
        "step": str,
        "kind": str,
        "use": str,
        "about": str,
        "from": str,  # the earlier step whose selection it starts from
        "parameters": Mapping[str, Any],
        "sql_sha256": str,
        "sql": str,
    },
)
"""A step as it was run."""


class DatasetCounts(TypedDict):
    """What a step did to one dataset; as `DatasetStats`."""

    dataset: str
    rows_in: int
    kept: int
    rows: int
    reasons: Mapping[str, int]
    dropped: int


class ManifestStep(StepSource):
    """A step before the build, with its counts."""

    rows_in: int
    kept: int
    dropped: int
    rows: int
    datasets: Sequence[DatasetCounts]
    reports: Sequence[Sequence[ReportRow]]


class ManifestBuild(StepSource):
    """The build's own step, with the options that decided on its files."""

    format: str
    compression: str
    max_shard_rows: int | None
    max_shard_bytes: int | None
    validation: float
    test: float
    split_by: str
    seed: int
    drop_invalid: bool
    report: bool
    reports: Sequence[Sequence[ReportRow]]


class SentParameters(TypedDict):
    """Sampling parameters that were sent, and with how many rollouts."""

    parameters: Mapping[str, Any]
    rollouts: int


class ManifestPolicy(TypedDict):
    """Who made and verified rollouts used. verdict_versions: what verdicts of that verifier's version may call it."""

    dataset: str
    policy: str
    engine: str | None
    model: str | None
    verifier: str | None
    verifier_version: str | None
    rollouts: int
    verdict_versions: NotRequired[Sequence[str] | None]
    requests: Sequence[SentParameters]


class InputFile(TypedDict):
    """An input file: its tasks, and a hash of their sorted hashes. address, pin: of a file that was fetched."""

    file: str
    address: NotRequired[str]
    pin: NotRequired[str]
    tasks: int
    rows_sha256: str


class ManifestInput(TypedDict):
    """What a build stands on of one dataset."""

    dataset: str
    rollouts: int
    rollouts_hash: str
    files: list[InputFile]


class ManifestRun(TypedDict):
    """A command that made rollouts used."""

    run_id: str
    rollouts: int
    command: str | None
    git_commit: str | None
    versions: Mapping[str, str]
    recipe_hash: str | None


RolloutCounts = TypedDict("RolloutCounts", {"in": int, "used": int})
"""How many rollouts a build read and used."""


class Manifest(TypedDict):
    """`manifest.json`. splits: split -> dataset -> lines. roles: the parts that rollouts play in the lines."""

    rolloutops: str
    duckdb: str
    versions: Mapping[str, str]
    git_commit: str | None
    build: ManifestBuild
    rollouts: RolloutCounts
    splits: Mapping[str, Mapping[str, int]]
    roles: Sequence[str]
    steps: Sequence[ManifestStep]
    policies: Sequence[ManifestPolicy]
    unasked_policies: Sequence[str]
    inputs: Sequence[ManifestInput]
    runs: Sequence[ManifestRun]
    recipe_hash: str | None
    recipe: Mapping[str, Any] | None
    files: list[ManifestFile]
