"""`compact` merges part files: every query says the same before, after, and wherever it is killed."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from rolloutops.store import sql
from rolloutops.store.compact import compact_folder
from rolloutops.store.journal import Journal
from rolloutops.store.manifest import newest_manifest
from rolloutops.store.parts import new_files, see_attempts
from rolloutops.store.workspace import Workspace, connect, open_workspace, try_lock
from tests.helpers import CHECKOUT, command, environ, query, rolloutops, sums, write_jsonl
from tests.test_damage import verdict
from tests.test_workspace import attempt, put, task

FLAGS = ("--input=in.jsonl", "--dataset=d", "--environment=exact_match", "--engine=scripted")
FAILPOINTS = sorted(
    {
        name
        for path in (CHECKOUT / "rolloutops").rglob("*.py")
        for name in re.findall(r'failpoint\("(compact-[a-z-]+)"\)', path.read_text())
    }
)
SPOTS = [
    f"{name}:{passage}" for name in FAILPOINTS for passage in ((1,) if name.endswith("-index") else (1, 2))
]  # a dataset has one index
TOLD = {
    "attempts": "SELECT * FROM attempts ORDER BY attempt_id",
    "verdicts": "SELECT * FROM verdicts ORDER BY verdict_id",
    "rollouts": "SELECT * FROM rollouts ORDER BY attempt_id",
    "pending": "SELECT * FROM pending ORDER BY ALL",
    "stats": "SELECT * FROM task_stats ORDER BY ALL",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace of three collections, each of which left part files of its own."""
    folder = tmp_path_factory.mktemp("made")
    write_jsonl(folder / "in.jsonl", sums(40))
    for repeats in (1, 2, 3):
        rolloutops("collect", *FLAGS, "--data=w", f"--num_repeats={repeats}", cwd=folder)
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy of that workspace, in a folder of its own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "w"


def told(data: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What the views say."""
    return {name: query(data, text) for name, text in TOLD.items()}


def files(data: Path, table: str = "attempts") -> list[str]:
    """The Parquet files of a table."""
    return sorted(path.stem for path in (data / table).rglob("*.parquet"))


def test_every_query_says_the_same(tmp_path: Path, data: Path) -> None:
    before, status = told(data), rolloutops("status", "--data=w", cwd=tmp_path).stdout
    commands = query(data, "SELECT run_id, event, command FROM runs ORDER BY ALL")
    done = rolloutops("compact", "--data=w", cwd=tmp_path)
    assert "attempts of d: 3 files merged into 1, 120 rows" in done.stderr
    assert [len(files(data, table)) for table in ("attempts", "verdicts")] == [1, 1]
    assert len(files(data, "runs")) <= 2
    assert told(data) == before
    assert query(data, "SELECT run_id, event, command FROM runs ORDER BY ALL")[: len(commands)] == commands
    size = re.compile(r"\n[^\n]+ on disk, [^\n]+\n")
    assert size.sub("", rolloutops("status", "--data=w", cwd=tmp_path).stdout) == size.sub("", status)
    assert "0 damaged" in rolloutops("check", "--data=w", "--deep", cwd=tmp_path).stdout
    rolloutops("collect", *FLAGS, "--data=w", "--num_repeats=4", cwd=tmp_path)
    assert query(data, "SELECT count(*), count(reward), count(DISTINCT attempt_id) FROM rollouts") == [(160, 160, 160)]
    rolloutops("compact", "--data=w", cwd=tmp_path)
    assert len(files(data)) == 1
    assert query(data, "SELECT count(*), count(reward), count(DISTINCT attempt_id) FROM rollouts") == [(160, 160, 160)]
    assert "Nothing to merge" in rolloutops("compact", "--data=w", cwd=tmp_path).stderr


@pytest.mark.parametrize("spot", SPOTS)
def test_killed_at_a_failpoint(tmp_path: Path, data: Path, spot: str) -> None:
    before = told(data)
    killed = subprocess.run(
        command("compact", "--data=w"), cwd=tmp_path, env=environ(ROLLOUTOPS_FAILPOINT=spot), check=False
    )
    assert killed.returncode == -signal.SIGKILL, f"{spot} was not passed"
    assert told(data) == before
    rolloutops("compact", "--data=w", cwd=tmp_path)
    assert told(data) == before
    assert [len(files(data, table)) for table in ("attempts", "verdicts")] == [1, 1]
    assert not [path for path in (data / "compacted").rglob(".*") if path.is_file()]
    assert not list(data.rglob("*.tmp"))


def test_a_part_that_is_sealed_again_under_its_old_name_is_covered(tmp_path: Path, data: Path) -> None:
    parts = [path for table in ("attempts", "verdicts") for path in (data / table).rglob("*.parquet")]
    kept = {path: path.read_bytes() for path in parts}
    before = told(data)
    rolloutops("compact", "--data=w", cwd=tmp_path)
    for path, content in kept.items():
        path.write_bytes(content)
    assert told(data) == before
    rolloutops("status", "--data=w", cwd=tmp_path)
    rolloutops("compact", "--data=w", cwd=tmp_path)
    assert told(data) == before
    assert not [path for path in kept if path.exists()]


def test_a_journal_of_merged_parts_counts_once(tmp_path: Path) -> None:
    """A machine that lost power may have the journal back that it had removed."""
    write_jsonl(tmp_path / "in.jsonl", sums(40))
    rolloutops("chunk", *FLAGS[:3], "--data=w", cwd=tmp_path)
    words = command("collect", *FLAGS, "--data=w")
    subprocess.run(words, cwd=tmp_path, env=environ(ROLLOUTOPS_FAILPOINT="seal-before"), check=False)
    (journal,) = (tmp_path / "w" / "journals").glob("*.jsonl")
    text = journal.read_bytes()
    rolloutops("collect", *FLAGS, "--data=w", cwd=tmp_path)
    rolloutops("compact", "--data=w", cwd=tmp_path)
    before = told(tmp_path / "w")
    journal.write_bytes(text)
    status = rolloutops("status", "--data=w", cwd=tmp_path).stdout
    assert "40 attempts on disk, all counted" in status
    rolloutops("verify", "--data=w", cwd=tmp_path)
    rolloutops("compact", "--data=w", cwd=tmp_path)
    assert told(tmp_path / "w") == before


@pytest.mark.parametrize("moment", ["before", "after"])
def test_copies_under_a_second_name_count_once(tmp_path: Path, data: Path, moment: str) -> None:
    """Also once what they are copies of is merged; a name such as parts have is merged with it."""
    before = told(data)
    part = sorted((data / "attempts" / "d").glob("*.parquet"))[1]
    content = part.read_bytes()
    if moment == "after":
        rolloutops("compact", "--data=w", cwd=tmp_path)
    part.with_name(f"{part.stem} copy.parquet").write_bytes(content)
    if moment == "before":
        part.with_name(f"{part.stem[:-4]}0099.parquet").write_bytes(content)
    assert told(data) == before
    for _ in range(2):
        rolloutops("compact", "--data=w", cwd=tmp_path)
        assert told(data) == before
        rolloutops("status", "--data=w", cwd=tmp_path)


def test_compacted_workspaces_are_merged_by_copying_files(tmp_path: Path, data: Path) -> None:
    """Both began as copies of one, collected and compacted for themselves: what they share counts once."""
    rolloutops("compact", "--data=w", cwd=tmp_path)
    shutil.copytree(tmp_path / "w", tmp_path / "x")
    for place, policy in (("w", "p"), ("x", "q")):
        rolloutops("collect", *FLAGS, f"--data={place}", f"--policy={policy}", cwd=tmp_path)
        rolloutops("compact", f"--data={place}", cwd=tmp_path)
    shutil.copytree(tmp_path / "x", tmp_path / "w", dirs_exist_ok=True)
    count = "SELECT policy, count(*), count(DISTINCT attempt_id), count(reward) FROM rollouts GROUP BY ALL ORDER BY ALL"
    want = [("p", 40, 40, 40), ("q", 40, 40, 40), ("scripted", 120, 120, 120)]
    for _ in range(2):
        assert query(data, count) == want
        rolloutops("status", "--data=w", cwd=tmp_path)
        rolloutops("compact", "--data=w", cwd=tmp_path)
    assert len(files(data)) == 1


def test_a_damaged_part_is_named_and_nothing_is_taken_away(tmp_path: Path, data: Path) -> None:
    part = sorted((data / "attempts" / "d").glob("*.parquet"))[1]
    chunk = pq.read_metadata(part).row_group(0).column(pq.read_schema(part).names.index("text"))
    content = bytearray(part.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
    part.write_bytes(content)
    before = files(data)
    done = rolloutops("compact", "--data=w", cwd=tmp_path, code=2)
    assert part.name in done.stderr
    assert "is damaged" in done.stderr
    assert files(data) == before
    assert not list(data.rglob("*.tmp"))


def test_a_merged_file_that_is_removed_is_asked_for_again(tmp_path: Path, data: Path) -> None:
    rolloutops("compact", "--data=w", cwd=tmp_path)
    (merged,) = (data / "attempts" / "d").glob("*.parquet")
    merged.unlink()
    assert query(data, "SELECT count(*) FROM pending") == [(120,)]
    rolloutops("collect", *FLAGS, "--data=w", "--num_repeats=3", cwd=tmp_path)
    assert query(data, "SELECT count(*), count(reward) FROM rollouts") == [(120, 120)]


def test_a_damaged_manifest_is_named_and_can_be_removed(tmp_path: Path, data: Path) -> None:
    before = told(data)
    rolloutops("compact", "--data=w", cwd=tmp_path)
    manifest = data / "compacted" / "datasets" / "d" / "00000001.json"
    manifest.write_text(manifest.read_text().replace('"rows": 120', '"rows": 121'))
    assert "00000001.json is damaged" in rolloutops("status", "--data=w", cwd=tmp_path, code=2).stderr
    manifest.unlink()
    assert told(data) == before
    rolloutops("compact", "--data=w", cwd=tmp_path)
    assert told(data) == before


# In one process: connections that are open while others compact ---------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two runs with four parts each."""
    opened = open_workspace(tmp_path / "w", create=True)
    put(opened, "tasks", "part-00000", *(task(n) for n in range(80)))
    for number in range(8):
        name = f"2026110{number // 4 + 1}T000000-abcdef-{number % 4:04d}"
        rows = [attempt(n) for n in range(number * 10, number * 10 + 10)]
        put(opened, "attempts", name, *rows)
        put(opened, "verdicts", name, *(verdict(n) for n in range(number * 10, number * 10 + 10)))
    return opened


def test_an_open_connection_goes_on_after_a_compaction(workspace: Workspace) -> None:
    first, second = connect(workspace), connect(workspace)
    want = sql.rows(first, "SELECT * FROM rollouts ORDER BY ALL")
    assert len(compact_folder(workspace, "d", everything=True)) == 2
    for con in (first, second):
        assert sql.rows(con, "SELECT * FROM rollouts ORDER BY ALL") == want
        assert len(sql.arrow(con, "FROM attempts")) == sum(map(len, sql.stream(con, "FROM attempts"))) == 80
    sql.run(first, "CREATE TABLE held AS FROM attempts; CREATE TABLE more AS FROM verdicts")
    assert sql.rows(first, "SELECT count(*) FROM held") == [(80,)]


def test_a_raw_glob_reads_each_row_once(workspace: Workspace) -> None:
    """So do earlier versions, which know of no manifest."""
    compact_folder(workspace, "d", everything=True)
    pattern = str(workspace.root / "attempts" / "*" / "*.parquet")
    found = duckdb.sql(f"SELECT count(*), count(DISTINCT attempt_id) FROM read_parquet({sql.literal(pattern)})")
    assert found.fetchall() == [(80, 80)]


def test_parts_of_a_newer_version_stay_as_they_are(workspace: Workspace) -> None:
    part = workspace.root / "attempts" / "d" / "20261102T000000-abcdef-0002.parquet"
    rows = pq.read_table(part)
    pq.write_table(rows.append_column("hue", rows["text"]), part)
    compact_folder(workspace, "d", everything=True)
    assert part.exists()
    assert sql.rows(connect(workspace), "SELECT count(*), count(DISTINCT attempt_id) FROM attempts") == [(80, 80)]


def test_parts_of_an_older_version_are_merged(workspace: Workspace) -> None:
    part = workspace.root / "attempts" / "d" / "20261101T000000-abcdef-0001.parquet"
    rows = pq.read_table(part).drop_columns(["cached_tokens", "tools"])
    pq.write_table(rows, part)
    compact_folder(workspace, "d", everything=True)
    assert not part.exists()
    assert sql.rows(connect(workspace), "SELECT count(*), count(DISTINCT attempt_id) FROM attempts") == [(80, 80)]


def test_a_part_whose_journal_is_there_is_not_merged(workspace: Workspace) -> None:
    name = "20261101T000000-abcdef-0001"
    (workspace.root / "journals" / f"{name}.jsonl").write_bytes(b"")
    compact_folder(workspace, "d", everything=True)
    assert name in files(workspace.root)


def test_who_loses_the_race_for_a_manifest_starts_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where two machines compact, whose locks do not reach each other."""
    from rolloutops.store import compact as module

    real, raced = module.commit, list[int]()

    def late(*words: Any) -> bool:
        if not raced:
            raced.append(1)
            assert len(compact_folder(workspace, "d", everything=True)) == 2
        return real(*words)

    monkeypatch.setattr(module, "commit", late)
    assert compact_folder(workspace, "d", everything=True) == []
    assert newest_manifest(workspace.root, "d").number == 1
    assert len(files(workspace.root)) == 1
    assert sql.rows(connect(workspace), "SELECT count(*), count(DISTINCT attempt_id) FROM attempts") == [(80, 80)]


def test_while_another_compacts_it_is_said(tmp_path: Path, data: Path) -> None:
    with try_lock(open_workspace(data), "d.compact"):
        done = rolloutops("compact", "--data=w", cwd=tmp_path)
    assert "d: another process compacts it now" in done.stderr
    assert len(files(data)) == 3


def test_attempts_that_others_made_are_seen_in_merged_files(workspace: Workspace) -> None:
    """A collection that began before them takes a part after they were sealed, merged and swept."""
    seen = see_attempts(workspace.root)
    compact_folder(workspace, "d", everything=True)
    assert new_files(seen, see_attempts(workspace.root), "20261104T000000-abcdef") == []
    put(workspace, "attempts", "20261103T000000-abcdef-0000", attempt(80))
    assert new_files(seen, see_attempts(workspace.root), "20261103T000000-abcdef") == []
    compact_folder(workspace, "d", everything=True)
    (merged,) = new_files(seen, see_attempts(workspace.root), "20261104T000000-abcdef")
    assert pq.read_metadata(merged).num_rows == 81


def test_who_seals_merges_what_is_small(workspace: Workspace) -> None:
    """64 parts become one file, and 64 such files one; files of other sizes stay as they are."""
    journal = Journal(workspace, "20261103T000000-abcdef", flush_rows=1)
    for number in range(200):
        journal.append("attempts", attempt(100 + number))
    journal.close()
    assert len(files(workspace.root)) < 64 + 16
    assert {file.tier for file in newest_manifest(workspace.root, "d").files} == {1}
    found = sql.rows(connect(workspace), "SELECT count(*), count(DISTINCT attempt_id) FROM attempts")
    assert found == [(280, 280)]


def test_what_cannot_be_merged_does_not_end_a_collection(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    part = workspace.root / "attempts" / "d" / "20261101T000000-abcdef-0001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    journal = Journal(workspace, "20261103T000000-abcdef", flush_rows=1)
    for number in range(100):
        journal.append("attempts", attempt(100 + number))
    journal.close()
    assert "part files were not merged" in capsys.readouterr().err
    assert len(files(workspace.root)) == 108
