"""What queries may take of the machine: flags, [duckdb], the environment, and what they meet at their limits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rolloutops.config import query_limits
from rolloutops.config.query_limits import limit_queries, machine_memory
from rolloutops.config.settings import DuckDB
from rolloutops.errors import UsageError, WorkspaceError
from rolloutops.store import sql
from tests.helpers import rolloutops, write_jsonl

RECIPE = """
data = "w"
[datasets.d]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
"""
SHOWN = (
    "SELECT current_setting('memory_limit') AS memory, current_setting('threads') AS threads, "
    "current_setting('temp_directory') AS spill"
)


@pytest.fixture(autouse=True)
def defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_limits, "_limits", None)


def workspace(folder: Path, recipe: str = "") -> None:
    (folder / "r.toml").write_text(RECIPE + recipe, encoding="utf-8")
    write_jsonl(folder / "tasks.jsonl", [{"prompt": "1 + 1?", "answer": "2"}])
    rolloutops("chunk", "r.toml", cwd=folder)


def shown(folder: Path, *words: str, **more: str) -> dict[str, Any]:
    """The limits of the connection in which a query runs."""
    said = rolloutops("sql", SHOWN, "--data=w", "--json", *words, cwd=folder, **more).stdout
    return dict(json.loads(said)[0])


def test_flags_win_over_the_recipe_and_this_over_the_environment(tmp_path: Path) -> None:
    workspace(tmp_path, '[duckdb]\nmemory_limit = "300MB"\ntemp_directory = "spilled"\n')
    env = {"ROLLOUTOPS_MEMORY_LIMIT": "200MB", "ROLLOUTOPS_THREADS": "1"}
    of_recipe = shown(tmp_path, **env)
    assert (of_recipe["memory"], of_recipe["threads"]) == ("286.1 MiB", 1)
    assert of_recipe["spill"].startswith(str(tmp_path / "spilled"))
    own = shown(tmp_path, "--memory_limit=400MiB", "--threads=3", "--temp_directory=other", **env)
    assert (own["memory"], own["threads"]) == ("400.0 MiB", 3)
    assert own["spill"].startswith(str(tmp_path / "other"))
    assert not [*(tmp_path / "other").iterdir()], "nothing is left there"


def test_half_of_the_machine_or_of_its_cgroup_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_queries({})
    assert query_limits.query_limits().memory == machine_memory() // 2
    (tmp_path / "memory.max").write_text("1000000000\n")
    monkeypatch.setattr(query_limits, "CGROUPS", tmp_path)
    assert machine_memory() == 10**9
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--memory_limit=lots", "--memory_limit = 'lots' is not a size: write e.g. 4GB, 512MB or 50%"),
        ("--memory_limit=1MB", "is too little for any query"),
        ("--threads=0", "threads must be 1 or more, not 0"),
        ("--temp_directory=tasks.jsonl", "--temp_directory = 'tasks.jsonl' cannot be a folder"),
    ],
)
def test_a_wrong_value_is_a_sentence(tmp_path: Path, words: str, sentence: str) -> None:
    workspace(tmp_path)
    done = rolloutops("sql", "SELECT 1", "--data=w", words, cwd=tmp_path, code=2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_value_of_the_environment_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLOUTOPS_THREADS", "many")
    with pytest.raises(UsageError, match="ROLLOUTOPS_THREADS"):
        limit_queries({})


def test_a_query_at_its_limit_says_what_to_raise(tmp_path: Path) -> None:
    workspace(tmp_path)
    query = "SELECT count(DISTINCT n) FROM (SELECT list(md5(range::VARCHAR)) AS n FROM range(3000000))"
    done = rolloutops("sql", query, "--data=w", "--memory_limit=60MB", "--threads=1", cwd=tmp_path, code=2)
    assert "a query needs more than its memory limit, 60 MB: raise memory_limit" in done.stderr


def test_a_full_spill_disk_is_a_sentence(tmp_path: Path) -> None:
    limit_queries({"memory_limit": "60MB", "temp_directory": str(tmp_path / "spilled")}, DuckDB())
    con = sql.connect(threads=1, spill=tmp_path / "spilled" / "own")
    sql.run(con, "SET max_temp_directory_size = '1MB'")
    with pytest.raises(
        WorkspaceError, match=r"no space is left in .*spilled, .* temp_directory, or raise memory_limit"
    ):
        sql.run(con, "CREATE TABLE large AS SELECT range AS n, md5(range::VARCHAR) AS text FROM range(3000000)")
