"""The index says what the plain rules say: on any workspace, at any moment of a compaction, for any recipe."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rolloutops.store import compact as compaction
from rolloutops.store import schema, sql
from rolloutops.store.base_views import views_script
from rolloutops.store.compact import compact_folder
from rolloutops.store.definitions import define
from rolloutops.store.manifest import newest_manifest
from rolloutops.store.workspace import Workspace, connect, open_workspace, patterns, write_part

VIEWS = (
    *("repeated_attempts", "older_verdicts", "good_attempts", "good_verdicts", "wanted", "unfinished", "wanted_states"),
    *("unverified", "outdated", "failures", "task_stats", "rollouts"),
)
PLANS: list[list[dict[str, Any]]] = [
    [],
    [{"dataset": "d", "policy": "p", "num_repeats": 3, "max_attempts": 2, "verifier": "v", "verifier_version": "1"}],
    [
        {"dataset": "d", "policy": "p", "num_repeats": 2, "row_limit": 5, "max_attempts": 1},
        {"dataset": "e", "policy": "q", "num_repeats": 4, "max_attempts": 3, "verifier": "v", "verifier_version": "2"},
    ],
    [
        {
            **{"dataset": "e", "policy": "p", "num_repeats": 1, "max_attempts": 3, "verifier": "v"},
            **{"verifier_version": "3", "equal_versions": ["1"]},
        }
    ],
]


class Maker:
    """Makes a workspace, part by part, with a random generator."""

    def __init__(self, root: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.workspace = open_workspace(root, create=True)
        self.attempts: list[dict[str, Any]] = []
        self.tasks: dict[tuple[str, int], list[str]] = {(d, n): ["h0"] for d in "de" for n in range(8)}
        self.number = 0
        for dataset in "de":
            self.write_tasks(dataset, [(n, "h0", 0, False) for n in range(8)])

    def write_tasks(self, dataset: str, rows: list[tuple[int, str, int, bool]]) -> None:
        """A part of the log of tasks."""
        self.number += 1
        found = [
            {
                **{"dataset": dataset, "task_id": f"t{n}", "row_hash": row_hash, "version": version},
                **{"removed": removed, "part": 0, "line": n, "row": "{}", "prompt": "[]", "prompt_hash": "x"},
            }
            for n, row_hash, version, removed in rows
        ]
        write_part(self.workspace, "tasks", dataset, f"part-{self.number:05d}", schema.table_of(schema.TASKS, found))

    def edit(self) -> None:
        """Edit, remove or bring back some tasks."""
        for (dataset, n), hashes in self.tasks.items():
            if self.rng.random() < 0.2:
                row_hash = self.rng.choice([f"h{len(hashes)}", hashes[0]])
                self.write_tasks(dataset, [(n, row_hash, len(hashes), self.rng.random() < 0.3)])
                hashes.append(row_hash)

    def collect(self) -> None:
        """Parts of attempts, whose ids do not follow the order of the parts."""
        rng, dataset = self.rng, self.rng.choice("de")
        self.number += 1
        run, rows = f"20261101T00000{rng.randrange(4)}-abcdef", []
        for place in range(rng.randrange(1, 30)):
            n = rng.randrange(8)
            error = rng.choice([None, None, None, None, "timeout", "bad_request", "unreachable"])
            rows.append(
                {
                    **{"dataset": dataset, "task_id": f"t{n}", "row_hash": rng.choice(self.tasks[dataset, n])},
                    **{
                        "policy": rng.choice("ppq"),
                        "rollout_index": rng.randrange(4),
                        "attempt": self.number * 30 + place,
                    },
                    **{"attempt_id": f"{run}-{self.number * 100 + place:08d}", "run_id": run, "engine": "scripted"},
                    **{"error": error, "final": error in (None, "bad_request"), "part": 0, "turns": 1},
                    **{"text": f"x{place}", "completion": "[]", "output_tokens": place, "tool_names": ["a"]},
                }
            )
        self.attempts += rows
        self.part("attempts", dataset, run, rows)

    def verify(self) -> None:
        """Parts of verdicts, on any attempts: also again, by other versions, and some that failed."""
        rng, dataset = self.rng, self.rng.choice("de")
        tried = [row for row in self.attempts if row["dataset"] == dataset and row["error"] is None]
        if not tried:
            return
        self.number += 1
        run, rows = f"20261102T00000{rng.randrange(4)}-abcdef", []
        for place, row in enumerate(rng.sample(tried, rng.randrange(1, len(tried) + 1))):
            keys = {name: row[name] for name in ("dataset", "task_id", "policy", "rollout_index", "attempt_id")}
            error = rng.choice([None, None, None, "verifier_error"])
            named = {"verifier": rng.choice("vvw"), "verifier_version": rng.choice(["1", "1", "2", "3"])}
            reward = None if error else rng.choice([0.0, 0.5, 1.0])
            verdict_id = f"{run}-{self.number * 1000 + place:08d}"
            made = {"verdict_id": verdict_id, "reward": reward, "metrics": [("m", 1.0)], "error": error}
            rows.append({**keys, **named, **made, "run_id": run})
        self.part("verdicts", dataset, run, rows)

    def part(self, table: str, dataset: str, run: str, rows: list[dict[str, Any]]) -> None:
        """A part, now and then under a second name too."""
        path = write_part(
            self.workspace, table, dataset, f"{run}-{self.number:04d}", schema.table_of(schema.TABLES[table], rows)
        )
        if self.rng.random() < 0.1:
            path.with_name(f"{path.stem} copy.parquet").write_bytes(path.read_bytes())

    def remove(self) -> None:
        """Remove a file of a table, whatever it is."""
        paths = sorted((self.workspace.root / self.rng.choice(["attempts", "verdicts"])).rglob("*.parquet"))
        if paths:
            self.rng.choice(paths).unlink()

    def live(self, step: str) -> None:
        """Do one step of a workspace's life, by its name; `share` is a collector's share of compaction."""
        if step in ("share", "compact"):
            self.compact(step == "compact")
        else:
            getattr(self, step)()

    def compact(self, everything: bool) -> None:
        """Compact all datasets."""
        for dataset in "de":
            if (self.workspace.root / "attempts" / dataset).is_dir():
                compact_folder(self.workspace, dataset, everything)


def plainly(workspace: Workspace, plan: list[dict[str, Any]]) -> sql.Connection:
    """A connection whose views read the tables alone, over the same files."""
    con = sql.connect()
    define(con, views_script(patterns(workspace), plan))
    return con


def rounded(rows: list[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows without the last digits of a standard deviation, which depend on the order in which rewards are read."""
    return [[round(value, 9) if isinstance(value, float) else value for value in row] for row in rows]


def differences(workspace: Workspace, plan: list[dict[str, Any]]) -> Iterator[str]:
    """The views that say something else than the plain rules."""
    con, plain = connect(workspace, plan), plainly(workspace, plan)
    for view in VIEWS:
        columns = ", ".join(name for name in sql.columns(plain, f"FROM {view}") if not name.endswith("_hash"))
        query = f"SELECT {columns} FROM {view} ORDER BY ALL"
        if rounded(sql.rows(con, query)) != rounded(sql.rows(plain, query)):
            yield view
    facts = ", ".join(sql.columns(con, "FROM rollout_facts"))
    if sql.rows(con, f"SELECT {facts} FROM rollout_facts ORDER BY ALL") != sql.rows(
        plain, f"SELECT {facts} FROM rollouts ORDER BY ALL"
    ):
        yield "rollout_facts"


@settings(
    max_examples=15, deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck)
)
@given(
    st.integers(0, 2**32),
    st.lists(
        st.sampled_from(["collect", "collect", "verify", "verify", "edit", "share", "compact", "compact", "remove"]),
        min_size=4,
        max_size=16,
    ),
)
def test_views_say_what_the_plain_rules_say(seed: int, life: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FAN", 2)
        maker = Maker(Path(folder) / "w", seed)
        for _ in range(3):
            maker.collect()
        maker.verify()
        for step in life:
            maker.live(step)
        for plan in PLANS:
            assert list(differences(maker.workspace, plan)) == []


def test_an_index_is_used_and_goes_with_what_it_was_made_of(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "w", 1)
    for _ in range(6):
        maker.collect()
    maker.verify()
    maker.compact(True)
    count = "SELECT count(*) FROM indexed_rollouts"
    good = sum(row["error"] is None for row in maker.attempts)
    assert sql.rows(connect(maker.workspace), count) == [(good,)]
    assert sql.rows(connect(maker.workspace), "SELECT count(*) FROM recent_attempts") == [(0,)]
    folder = maker.workspace.root / "compacted" / "datasets"
    for index in folder.rglob("index-*-settled.parquet"):
        index.unlink()
    with pytest.raises(sql.Error, match="indexed_rollouts does not exist"):
        sql.rows(connect(maker.workspace), count)
    maker.compact(True)
    assert sql.rows(connect(maker.workspace), count) == [(good,)]
    assert newest_manifest(maker.workspace.root, "d").number == 2
