"""The viewer answers the same from the tables of a workspace and from the index that `compact` derives of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.helpers import query, rolloutops
from tests.viewer import Viewer, collect, viewing

FILTERS: list[dict[str, Any]] = [
    {},
    {"sort": "-reward"},
    {"sort": "policy"},
    {"policy": "bold"},
    {"finish_reason": ["stop", ""], "sort": "finish_reason"},
    {"tool": ""},
    {"label": "odd"},
    {"low": "0.5", "policy": ["bold", "careful"]},
    {"where": "policy LIKE 'b%' AND rollout_index = 0"},
    {"where": "coalesce(verdict_error, finish_reason) || policy > 'a'", "sort": "-started_at"},
    {"where": "length(text) > 3 AND reward = 1", "sort": "task_id"},
]


def answers(viewer: Viewer) -> list[Any]:
    """What the pages show of each filter, of one rollout, and of all."""
    found: list[Any] = [viewer.get(name, **chosen) for chosen in FILTERS for name in ("rows", "totals", "histogram")]
    one = viewer.rows(sort="task_id")[3]
    found.append(viewer.get("neighbors", of=one["dataset"], attempt=one["attempt_id"], sort="task_id"))
    found.append(viewer.get("rollout", of=one["dataset"], attempt=one["attempt_id"]))
    found.append(viewer.get("task", of=one["dataset"], task=one["task_id"]))
    found += [viewer.get("compare", a="bold", b="careful"), viewer.get("failures")]
    # The sum of floats depends on their order.
    return list(json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 9)))


def test_pages_of_a_compacted_workspace(tmp_path: Path) -> None:
    collect(tmp_path)
    data = tmp_path / "data/viewed"
    (one,) = query(data, "SELECT dataset, task_id, policy, rollout_index FROM rollouts ORDER BY attempt_id LIMIT 1")
    rolloutops("label", "/".join(map(str, one)), "--label=odd", "--data=data/viewed", cwd=tmp_path)
    with viewing(tmp_path, "recipe.toml") as viewer:
        before = answers(viewer)
    rolloutops("compact", "recipe.toml", cwd=tmp_path)
    assert list((data / "compacted").rglob("index-*.parquet"))
    with viewing(tmp_path, "recipe.toml") as viewer:
        assert answers(viewer) == before
    assert before[FILTERS.index({"label": "odd"}) * 3]["rows"]
