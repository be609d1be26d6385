"""`forget` takes rollouts out for good: every query is as if they had never been, and no file holds a byte of them."""

from __future__ import annotations

import fcntl
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rolloutops.store import compact as compaction
from rolloutops.store import sql
from rolloutops.store.forget import Choice, find_forgettable, forget
from rolloutops.store.removal import LOCK
from rolloutops.store.workspace import Workspace, connect, try_lock
from tests.helpers import CHECKOUT, command, environ, query, rolloutops, sums, write_jsonl
from tests.test_index import PLANS, Maker, differences, plainly

FLAGS = (
    *("--input=in.jsonl", "--dataset=d", "--id=n", "--environment=exact_match", "--engine=scripted"),
    *("--engine_args.answers=answers.jsonl", "--keep_response=true", "--data=w"),
)
MARK = "zebra"
WHERE = f"--where=text LIKE '%{MARK}%'"
FAILPOINTS = sorted(
    {
        name
        for path in (CHECKOUT / "rolloutops").rglob("*.py")
        for name in re.findall(r'failpoint\("(removal-[a-z-]+|compact-[a-z-]+)"\)', path.read_text())
        if name not in ("compact-before-merge", "compact-after-commit")  # which `compact` alone passes
    }
)
RECIPE = """
data = "w"

[datasets.d]
input = "in.jsonl"
environment = "exact_match"
id = "n"

[collect]
engine = "scripted"
num_repeats = 4

[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
"""
LEFT = {
    "attempts": "SELECT * FROM attempts WHERE task_id::INT % 4 > 0 ORDER BY attempt_id",
    "verdicts": "SELECT * FROM verdicts WHERE task_id::INT % 4 > 0 ORDER BY verdict_id",
    "labels": "SELECT * FROM label_log WHERE task_id::INT % 4 > 0 ORDER BY ALL",
    "rollouts": "SELECT * FROM rollouts WHERE task_id::INT % 4 > 0 ORDER BY attempt_id",
    "stats": "SELECT * FROM task_stats WHERE task_id::INT % 4 > 0 ORDER BY ALL",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace of four collections: two are compacted, the file of one has a name of its own, and a
    copy beside it. Each fourth task has MARK in its answers."""
    folder = tmp_path_factory.mktemp("made")
    tasks = sums(40)
    write_jsonl(folder / "in.jsonl", tasks)
    texts = [
        {"key": str(n), "text": f"{MARK if n % 4 == 0 else 'horse'}. Answer: {one['answer']}"}
        for n, one in enumerate(tasks)
    ]
    write_jsonl(folder / "answers.jsonl", texts)
    for repeats in (1, 2, 3, 4):
        rolloutops("collect", *FLAGS, f"--num_repeats={repeats}", cwd=folder)
        if repeats in (1, 4):
            rolloutops("label", "--data=w", WHERE, f"--note=a {MARK} of run {repeats}", cwd=folder)
            rolloutops("label", "--data=w", "--where=text LIKE '%horse%'", f"--score={repeats}", cwd=folder)
        if repeats == 2:
            rolloutops("compact", "--data=w", cwd=folder)
        if repeats == 3:
            (part,) = (folder / "w" / "attempts" / "d").glob("2*.parquet")
            mine = part.rename(part.with_name("mine.parquet"))
            mine.with_name("copy of it.parquet").write_bytes(mine.read_bytes())
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy of that workspace, in a folder of its own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "w"


def told(data: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What the views say of the tasks without the mark."""
    return {name: query(data, text) for name, text in LEFT.items()}


def holders(data: Path, mark: str = MARK) -> list[str]:
    """The files of a workspace that hold a text, in their bytes or, once they are decompressed, in their rows."""
    return [
        str(path.relative_to(data))
        for path in sorted(data.rglob("*"))
        if path.is_file()
        and (
            mark.encode() in path.read_bytes()
            or (path.suffix == ".parquet" and mark in str(pq.read_table(path).to_pylist()))
        )
    ]


def test_what_matches_is_gone_from_every_file(tmp_path: Path, data: Path) -> None:
    before = told(data)
    assert len(holders(data)) >= 3
    done = rolloutops("forget", "--data=w", WHERE, cwd=tmp_path)
    assert re.search(r"d +scripted +40 +40 +40 +50 +40\n", done.stdout)
    assert "Nothing was deleted: add --yes" in done.stdout
    assert query(data, "SELECT count(*) FROM rollouts") == [(160,)]
    done = rolloutops("forget", "--data=w", WHERE, "--yes", cwd=tmp_path)
    assert "collect asks for 40 rollouts again" in done.stderr
    assert told(data) == before
    assert query(data, "SELECT count(*), count(reward) FROM rollouts") == [(120, 120)]
    assert query(data, "SELECT count(*) FROM pending WHERE task_id::INT % 4 = 0") == [(40,)]
    assert holders(data) == []
    assert "consistency check passed" in rolloutops("status", "--data=w", cwd=tmp_path).stdout
    assert "Nothing matches" in rolloutops("forget", "--data=w", WHERE, "--yes", cwd=tmp_path).stderr
    rolloutops("collect", *FLAGS, "--num_repeats=4", cwd=tmp_path)
    assert query(data, "SELECT count(*), count(reward), count(DISTINCT attempt_id) FROM rollouts") == [(160, 160, 160)]
    rolloutops("compact", "--data=w", cwd=tmp_path)
    assert query(data, "SELECT count(*), count(reward), count(DISTINCT attempt_id) FROM rollouts") == [(160, 160, 160)]


def passages(name: str) -> list[int]:
    return [1, 2] if name in ("compact-in-sweep", "removal-of-part") else [1]


@pytest.mark.parametrize("spot", [f"{name}:{passage}" for name in FAILPOINTS for passage in passages(name)])
def test_killed_at_a_failpoint(tmp_path: Path, data: Path, spot: str) -> None:
    """It is before or after at any moment, whoever writes next ends it, and it leaves nothing."""
    before = told(data)
    words = command("forget", "--data=w", WHERE, "--yes")
    killed = subprocess.run(words, cwd=tmp_path, env=environ(ROLLOUTOPS_FAILPOINT=spot), check=False)
    assert killed.returncode == -signal.SIGKILL, f"{spot} was not passed"
    assert told(data) == before
    marked = query(data, "SELECT count(*), count(reward) FROM rollouts WHERE task_id::INT % 4 = 0")
    assert marked in ([(40, 40)], [(30, 30)], [(0, 0)])  # 10 are in the file that bears a person's name
    began = (data / "compacted" / "removal.parquet").exists()
    rolloutops("verify", "--data=w", cwd=tmp_path)
    assert holders(data) == [] or not began
    rolloutops("forget", "--data=w", WHERE, "--yes", cwd=tmp_path)
    assert told(data) == before
    assert holders(data) == []
    assert not [path for path in data.rglob(".*") if path.parent.name != "locks"]


def test_what_goes_cannot_be_labeled(tmp_path: Path, data: Path) -> None:
    """A killed forget listed it: label ends that first, and finds it no more."""
    words = command("forget", "--data=w", "--where=task_id = '39'", "--yes")
    subprocess.run(words, cwd=tmp_path, env=environ(ROLLOUTOPS_FAILPOINT="removal-after-list:1"), check=False)
    done = rolloutops("label", "d/39/scripted/0", "--data=w", "--note=late", cwd=tmp_path, code=2)
    assert "no rollout is named" in done.stderr
    assert query(data, "SELECT count(*) FROM label_log WHERE task_id = '39'") == [(0,)]


def test_a_run_goes_with_its_verdicts_and_builds_are_named(tmp_path: Path, data: Path) -> None:
    rolloutops("verify", "--data=w", cwd=tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE)
    rolloutops("build", "r.toml", cwd=tmp_path)
    ((run, rollouts),) = query(data, "SELECT run_id, count(*) FROM rollouts GROUP BY ALL ORDER BY ALL DESC LIMIT 1")
    assert rollouts == 40
    done = rolloutops("forget", "r.toml", f"--run={run}", "--yes", cwd=tmp_path)
    assert re.search(r"d +scripted +40 +40 +40 +40 +40\n", done.stderr)
    assert "exports/sft: 40 lines made of 40 of them; build it again, or delete it" in done.stderr
    assert query(data, f"SELECT count(*) FROM attempts WHERE run_id = '{run}'") == [(0,)]
    assert query(data, f"SELECT count(*) FROM verdicts WHERE run_id = '{run}'") == [(0,)]
    assert len((data / "exports" / "sft" / "train.jsonl").read_text().splitlines()) == 160
    rolloutops("forget", "r.toml", "--dataset=d", "--policy=scripted", "--yes", cwd=tmp_path)
    assert query(data, "SELECT count(*) FROM attempts") == [(0,)]
    assert not list((data / "attempts").rglob("*.parquet"))
    assert query(data, "SELECT count(*) FROM pending") == [(160,)]


def test_what_the_condition_says_is_not_recorded(tmp_path: Path, data: Path) -> None:
    rolloutops("forget", "--data=w", WHERE, "--yes", cwd=tmp_path)
    ((argv, counts),) = query(data, "SELECT argv, counts::VARCHAR FROM runs WHERE command = 'forget' AND event = 'end'")
    assert argv == ["forget", "--where=***", "--yes"]
    assert '"rollouts": 40' in counts or '"rollouts":40' in counts


def test_a_line_of_a_journal_that_was_set_aside_goes(tmp_path: Path, data: Path) -> None:
    """A killed collection left a line that is not a row; a second one is of another task."""
    columns = {"dataset": "d", "policy": "scripted", "rollout_index": 0, "attempt": 1, "row_hash": "x"}
    lines = [
        {"attempts": {**columns, "task_id": n, "attempt_id": f"20261101T000000-abcdef-{n}", "text": text, "turns": "?"}}
        for n, text in (("4", MARK), ("5", "horse"))
    ]
    write_jsonl(data / "journals" / "20261101T000000-abcdef-0000.jsonl", lines)
    assert "30 rollouts" not in rolloutops("forget", "--data=w", WHERE, cwd=tmp_path).stdout
    assert [path.suffix for path in (data / "rejected").iterdir()] == [".lines"]
    assert MARK in next((data / "rejected").iterdir()).read_text()
    rolloutops("forget", "--data=w", WHERE, "--yes", cwd=tmp_path)
    assert holders(data) == []
    assert "horse" in next((data / "rejected").iterdir()).read_text()


def test_names_and_conditions_that_are_none(tmp_path: Path, data: Path) -> None:
    for words, said in (
        ((), "forget needs --run, --dataset, --policy or --where"),
        (("--dataset=e",), "the workspace has no dataset 'e'"),
        (("--policy=scripte",), "did you mean 'scripted'"),
        (("--run=2026",), "the workspace has no run '2026'"),
        (("--where=rewards > 1",), "rewards"),
        (("--where=true) OR (true",), "--where takes one condition"),
        (("--where=true) ORDER BY (1",), "--where takes one condition"),
        (("--where=true; DROP TABLE attempts",), "syntax error"),
    ):
        assert said in rolloutops("forget", "--data=w", *words, "--yes", cwd=tmp_path, code=2).stderr
    assert query(data, "SELECT count(*) FROM rollouts") == [(160,)]


def test_it_does_not_work_beside_a_command_that_writes(tmp_path: Path, data: Path) -> None:
    """And one that writes waits for it."""
    with try_lock(Workspace(data), LOCK, shared=True):
        done = rolloutops("forget", "--data=w", WHERE, "--yes", cwd=tmp_path, code=2)
    assert "another command writes to w" in done.stderr
    assert query(data, "SELECT count(*) FROM rollouts") == [(160,)]
    with (
        try_lock(Workspace(data), LOCK),
        subprocess.Popen(
            command("compact", "--data=w"), cwd=tmp_path, env=environ(), stderr=subprocess.PIPE, text=True
        ) as waiting,
    ):
        assert waiting.stderr is not None
        assert "another command takes rows out of this workspace" in waiting.stderr.readline()
        assert waiting.poll() is None
        waiting.kill()


def test_a_journal_that_is_being_written_is_refused(tmp_path: Path, data: Path) -> None:
    """As by a version that does not share the lock."""
    with (data / "journals" / "20261101T000000-abcdef-0000.jsonl").open("wb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        done = rolloutops("forget", "--data=w", WHERE, "--yes", cwd=tmp_path, code=2)
    assert "is written by a command that still runs" in done.stderr
    assert query(data, "SELECT count(*) FROM rollouts") == [(160,)]


def test_who_reads_sees_it_before_or_after(tmp_path: Path, data: Path) -> None:
    """No rollout is seen without its verdict, or in part."""
    (data / "attempts" / "d" / "mine.parquet").unlink()  # such a file goes by itself
    (data / "attempts" / "d" / "copy of it.parquet").unlink()
    seen = set()
    text = "SELECT count(*), count(reward) FROM rollouts WHERE task_id::INT % 4 = 0"
    with subprocess.Popen(command("forget", "--data=w", WHERE, "--yes"), cwd=tmp_path, env=environ()) as forgetting:
        while forgetting.poll() is None:
            seen |= set(sql.rows(connect(Workspace(data)), text))
    assert forgetting.returncode == 0
    assert seen <= {(30, 30), (0, 0)}
    assert query(data, text) == [(0, 0)]


# In one process: any workspace, at any moment of its life ---------------------------------------------------------

CONDITIONS = (
    "rollout_index = 1",
    "policy = 'q' AND output_tokens % 3 = 0",
    "reward > 0.5",
    "reward IS NULL",
    "task_id IN ('t1', 't5')",
    "attempt_id = (SELECT max(attempt_id) FROM rollouts)",
    "reward < (SELECT avg(reward) FROM rollouts)",
    "dataset = 'd'",
)


@settings(
    max_examples=15, deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck)
)
@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(["collect", "verify", "edit", "share", "compact", "remove", "forget"]), max_size=12),
    st.sampled_from(PLANS),
)
def test_what_is_left_is_what_did_not_match(seed: int, life: list[str], plan: list[dict[str, Any]]) -> None:
    """Whatever happened before: edits, repeats, copies, compactions, removed files, other rollouts forgotten."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FAN", 2)
        maker = Maker(Path(folder) / "w", seed)
        for _ in range(3):
            maker.collect()
        maker.verify()
        for step in [*life, "forget"]:
            if step == "forget":
                assert_forgets(maker.workspace, plan, maker.rng.choice(CONDITIONS))
            else:
                maker.live(step)
        maker.compact(True)
        assert list(differences(maker.workspace, plan)) == []


def assert_forgets(workspace: Workspace, plan: list[dict[str, Any]], condition: str) -> None:
    """What matches goes with all of its attempts and their verdicts, and everything else is as before."""
    keys = f"SELECT dataset, task_id, policy, rollout_index FROM rollouts WHERE {condition}"
    by_key = f"(dataset, task_id, policy, rollout_index) IN ({keys})"
    con = plainly(workspace, plan)
    names = [*sql.rows(con, f"SELECT attempt_id FROM attempts WHERE {by_key}")]
    want = {
        "attempts": f"FROM attempts WHERE NOT {by_key} ORDER BY ALL",
        "verdicts": f"FROM verdicts WHERE NOT {by_key} ORDER BY ALL",
        "rollouts": f"SELECT * FROM rollouts WHERE NOT {by_key} ORDER BY ALL",
    }
    before = {name: sql.rows(con, query) for name, query in want.items()}
    pending = sql.rows(con, "SELECT count(*) FROM pending")[0][0]
    found = find_forgettable(workspace, plan, Choice(where=condition))
    assert sum(row["attempts"] for row in found.counts) == len(names)
    again = sum(row["pending"] for row in found.counts)
    forget(workspace, found)
    assert list(differences(workspace, plan)) == []
    con = connect(workspace, plan)
    after = {name: sql.rows(con, query.replace(f"WHERE NOT {by_key}", "")) for name, query in want.items()}
    assert after == before
    assert sql.rows(con, "SELECT count(*) FROM pending")[0][0] == pending + again
    left = set().union(*(ids(path) for path in workspace.root.rglob("*.parquet") if path.parts[-2] in "de"))
    assert not left & {name for (name,) in names}


def ids(path: Path) -> set[str]:
    """The attempts that a file names."""
    columns = pq.read_schema(path).names
    return (
        set(pq.read_table(path, columns=["attempt_id"])["attempt_id"].to_pylist()) if "attempt_id" in columns else set()
    )
