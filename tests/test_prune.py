"""`prune` deletes what does not count: no view of what counts says anything else, and nothing is asked again."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rolloutops.config.resources import shipped
from rolloutops.store import compact as compaction
from rolloutops.store import sql
from rolloutops.store.prune import KINDS, find_prunable, prune
from rolloutops.store.workspace import Workspace, connect
from tests.helpers import query, rolloutops, sums, write_jsonl
from tests.test_index import PLANS, Maker, differences

FLAGS = ("--input=in.jsonl", "--dataset=d", "--id=n", "--environment=exact_match")
COLLECT = (*FLAGS, "--engine=scripted", "--engine_args.faults=timeout:0.3", "--retry_seconds=0.01", "--data=w")
COUNTING = ("rollouts", "wanted", "pending", "given_up", "unverified", "task_stats", "good_attempts")
ACCOUNTS = (
    *("its task is gone from the input", "its task was edited since", "an earlier attempt of the same rollout counts"),
    "it failed; a later attempt succeeded",
)
"""What accounts.sql says of the attempts that go."""


def test_each_kind_is_listed_and_goes(tmp_path: Path) -> None:
    tasks = sums(40)
    write_jsonl(tmp_path / "in.jsonl", tasks)
    rolloutops("collect", *COLLECT, cwd=tmp_path)
    data = tmp_path / "w"
    rolloutops("compact", "--data=w", cwd=tmp_path)
    write_jsonl(tmp_path / "in.jsonl", [{**tasks[0], "prompt": "Say 7"}, *tasks[2:]])
    rolloutops("chunk", *FLAGS, "--data=w", cwd=tmp_path)
    rolloutops("collect", *COLLECT, cwd=tmp_path)
    before = query(data, "SELECT * FROM rollouts ORDER BY attempt_id")
    listed = rolloutops("prune", "--data=w", cwd=tmp_path).stdout
    assert re.search(r"removed +d +[1-9] +1 ", listed)
    assert re.search(r"edited +d +[1-9] +1 ", listed)
    assert re.search(r"retried +d +[1-9]\d* +0 ", listed)
    assert "collect asks for 0 rollouts again" in listed
    assert "Nothing was deleted" in listed
    assert rolloutops("prune", "--data=w", cwd=tmp_path).stdout == listed
    rolloutops("prune", "--data=w", "--only=edited,removed", "--yes", cwd=tmp_path)
    assert re.search(r"retried +d +[1-9]\d* +0 ", rolloutops("prune", "--data=w", cwd=tmp_path).stdout)
    rolloutops("prune", "--data=w", "--yes", cwd=tmp_path)
    assert query(data, "SELECT * FROM rollouts ORDER BY attempt_id") == before
    assert "39 attempts on disk, all counted" in rolloutops("status", "--data=w", cwd=tmp_path).stdout
    assert "Nothing to prune" in rolloutops("prune", "--data=w", cwd=tmp_path).stdout


HUMAN = """
data = "w"

[datasets.d]
input = "in.jsonl"
environment = "exact_match"
id = "n"
verifier = "human"

[collect]
engine = "scripted"
"""


def test_labels_go_with_their_attempts(tmp_path: Path) -> None:
    """Also scores that count as verdicts; labels of no attempt go with the policy."""
    write_jsonl(tmp_path / "in.jsonl", sums(4))
    (tmp_path / "r.toml").write_text(HUMAN, encoding="utf-8")
    rolloutops("collect", "r.toml", cwd=tmp_path)
    rolloutops("label", "--where=true", "r.toml", "--score=1", cwd=tmp_path)
    write_jsonl(tmp_path / "in.jsonl", sums(4)[1:])
    rolloutops("chunk", "r.toml", cwd=tmp_path)
    assert re.search(r"removed +d +1 +0 +1 +0 ", rolloutops("prune", "r.toml", "--yes", cwd=tmp_path).stderr)
    assert query(tmp_path / "w", "SELECT count(*) FROM label_log") == [(3,)]
    for part in (tmp_path / "w" / "attempts" / "d").iterdir():  # as for a damaged file
        part.unlink()
    listed = rolloutops("prune", "r.toml", cwd=tmp_path).stdout
    assert re.search(r"labels +d +0 +0 +3 +0 ", listed)
    assert "verdicts  d" not in listed
    forgot = rolloutops("forget", "r.toml", "--policy=scripted", "--yes", cwd=tmp_path).stderr
    assert re.search(r"d +scripted +0 +0 +0 +3 +0\n", forgot)
    assert not list((tmp_path / "w" / "labels").rglob("*.parquet"))


def test_a_kind_that_is_none_is_named(tmp_path: Path) -> None:
    assert (
        "--only=edits: it takes removed" in rolloutops("prune", "--data=w", "--only=edits", cwd=tmp_path, code=2).stderr
    )


@settings(
    max_examples=15, deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck)
)
@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(["collect", "verify", "edit", "share", "compact", "remove", "prune"]), max_size=12),
    st.sampled_from(PLANS),
)
def test_what_counts_stays_as_it_is(seed: int, life: list[str], plan: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FAN", 2)
        maker = Maker(Path(folder) / "w", seed)
        for _ in range(3):
            maker.collect()
        maker.verify()
        for step in [*life, "prune"]:
            if step == "prune":
                assert_prunes(maker.workspace, plan)
            else:
                maker.live(step)


def assert_prunes(workspace: Workspace, plan: list[dict[str, Any]]) -> None:
    """What does not count is gone, and nothing else."""
    before = told(workspace, plan)
    found = find_prunable(workspace, plan, KINDS)
    assert found.pending == 0
    prune(workspace, found)
    assert told(workspace, plan) == before
    assert list(differences(workspace, plan)) == []
    assert find_prunable(workspace, plan, KINDS).rows == []
    con = connect(workspace, plan)
    sql.run(con, "SET VARIABLE datasets = ['d', 'e']")
    accounts = sql.read(shipped("sql") / "checks" / "accounts.sql")
    assert not {account for _, _, account, _ in sql.rows(con, accounts)} & set(ACCOUNTS)


def told(workspace: Workspace, plan: list[dict[str, Any]]) -> dict[str, Any]:
    """What the views say of what counts."""
    con = connect(workspace, plan)
    verdicts = "good_verdicts SEMI JOIN good_attempts USING (dataset, attempt_id)"
    return {view: sql.rows(con, f"FROM {view} ORDER BY ALL") for view in (*COUNTING, verdicts)}
