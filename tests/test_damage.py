"""What lies damaged, half-written or under a wrong name in a workspace: named, counted, and in nobody's way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from rolloutops.errors import WorkspaceError
from rolloutops.store import heartbeat
from rolloutops.store.damage import find_all
from rolloutops.store.heartbeat import Beat, beating
from rolloutops.store.journal import seal_orphans
from rolloutops.store.mounts import mount_of, why_locks_end_here
from rolloutops.store.run_ids import following, greatest, next_run_id
from rolloutops.store.scratch import scratch, sweep_replaced, sweep_scratch
from rolloutops.store.workspace import Workspace, open_workspace
from tests.helpers import command, environ, query, rolloutops, sums, write_jsonl
from tests.test_workspace import attempt, put, rows, task


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty one."""
    return open_workspace(tmp_path / "w", create=True)


def verdict(number: int, **more: Any) -> dict[str, Any]:
    """A row of verdicts on the attempt of task `number`."""
    key = {name: attempt(number)[name] for name in ("dataset", "task_id", "policy", "rollout_index", "attempt_id")}
    return {**key, "verdict_id": f"run-{number + 1000:08d}", "verifier": "v", "reward": 1.0, "metrics": [], **more}


# Part files ---------------------------------------------------------------------------------------------------------


def test_one_flipped_bit_in_a_number_is_found(workspace: Workspace) -> None:
    """Which DuckDB reads silently."""
    put(workspace, "tasks", "part-00000", *(task(n) for n in range(40)))
    part = put(workspace, "attempts", "run-0000", *(attempt(n) for n in range(40)))
    assert list(find_all(workspace.root)) == []
    chunk = pq.read_metadata(part).row_group(0).column(pq.read_schema(part).names.index("text"))
    data = bytearray(part.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
    part.write_bytes(data)
    assert [path for path, _ in find_all(workspace.root)] == [part]


@pytest.mark.parametrize("damage", ["bit", "tail", "empty", "text"])
def test_check_deep_names_the_part_and_what_deleting_it_costs(tmp_path: Path, damage: str) -> None:
    write_jsonl(tmp_path / "in.jsonl", sums(30))
    flags = ["--input=in.jsonl", "--data=w", "--environment=exact_match", "--engine=scripted"]
    rolloutops("collect", *flags, cwd=tmp_path)
    assert "0 damaged" in rolloutops("check", *flags, "--deep", cwd=tmp_path).stdout
    (part,) = (tmp_path / "w" / "attempts" / "in").glob("*.parquet")
    data = part.read_bytes()
    middle = len(data) // 3
    broken = {"bit": data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :], "tail": data[:-20], "empty": b""}
    part.write_bytes(broken.get(damage, b"this is not Parquet " * 50))
    done = rolloutops("check", *flags, "--deep", cwd=tmp_path, code=2)
    (line,) = [line for line in done.stdout.splitlines() if str(part.name) in line]
    assert "deleting it costs 30 rollouts and 30 verdicts again" in line
    part.unlink()
    rolloutops("collect", *flags, cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*), count(reward) FROM rollouts") == [(30, 30)]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_bears_the_name_of_a_part_and_is_no_file_is_named(workspace: Workspace, make: Any) -> None:
    put(workspace, "attempts", "one", attempt(1))
    odd = workspace.root / "attempts" / "d" / "odd.parquet"
    make(odd)
    with pytest.raises(WorkspaceError, match=r"odd\.parquet is damaged \(it is not a file\)"):
        rows(workspace, "SELECT count(*) FROM attempts")
    assert [path for path, _ in find_all(workspace.root)] == [odd]


# Journals -----------------------------------------------------------------------------------------------------------

GOOD = orjson.dumps({"attempts": attempt(1)})
WRONG = {
    "unknown table": b'{"tasks": {"dataset": "d", "task_id": "1"}}',
    "two tables": b'{"attempts": {}, "verdicts": {}}',
    "a list": b"[1, 2]",
    "no row": b'{"attempts": "text"}',
    "no name": orjson.dumps({"attempts": {**attempt(2), "attempt_id": None}}),
    "wrong type": orjson.dumps({"attempts": {**attempt(2), "turns": "many"}}),
    "too large": orjson.dumps({"attempts": {**attempt(2), "rollout_index": 2**40}}),
    "unknown column": orjson.dumps({"attempts": {**attempt(2), "color": "red"}}),
    "not JSON": orjson.dumps({"attempts": {**attempt(2), "completion": "[{"}}),
    "metrics": orjson.dumps({"verdicts": {**verdict(2), "metrics": "none"}}),
    "outside": orjson.dumps({"attempts": {**attempt(2), "dataset": "../../outside"}}),
    "absolute": orjson.dumps({"attempts": {**attempt(2), "dataset": "/tmp/outside"}}),
    "dataset of a number": orjson.dumps({"attempts": {**attempt(2), "dataset": 7}}),
    "binary": bytes(range(256)).replace(b"\n", b"") * 20,
    "zeros": b"\0" * 4096,
    "long": b'{"attempts": {"text": "' + b"x" * 20_000_000 + b'"}}',
}


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_a_journal_line_of_a_wrong_shape_is_kept_and_counted(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], line: bytes
) -> None:
    journal = workspace.root / "journals" / "run-0000.jsonl"
    lines = [GOOD, line, orjson.dumps({"attempts": attempt(3)}), orjson.dumps({"verdicts": verdict(3)})]
    journal.write_bytes(b"\n".join(lines) + b"\n")
    assert seal_orphans(workspace) == 3
    assert not journal.exists()
    assert rows(workspace, "SELECT task_id FROM attempts ORDER BY task_id") == [("1",), ("3",)]
    assert rows(workspace, "SELECT task_id FROM verdicts") == [("3",)]
    kept = workspace.root / "rejected" / "journal-run-0000.lines"
    assert kept.read_bytes() == line + b"\n"
    assert f"1 line is not a row of a table in the journal of an interrupted run, and kept in {kept}" in (
        capsys.readouterr().err
    )
    assert not (workspace.root.parent / "outside").exists()


def test_what_is_no_journal_stands_in_nobodys_way(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    journals = workspace.root / "journals"
    (journals / "a-folder.jsonl").mkdir()
    os.mkfifo(journals / "b-pipe.jsonl")
    (journals / "c-link.jsonl").symlink_to("nowhere")
    (journals / "d-empty.jsonl").touch()
    (journals / "e-good.jsonl").write_bytes(GOOD + b"\n")
    for _ in range(2):
        seal_orphans(workspace)
    assert rows(workspace, "SELECT task_id FROM attempts") == [("1",)]
    reported = capsys.readouterr().err
    assert reported.count("a-folder.jsonl cannot be read") == reported.count("b-pipe.jsonl cannot be read") == 1
    assert sorted(path.name[0] for path in journals.iterdir()) == ["a", "b", "c"]


def test_sealing_a_journal_again_takes_nothing_from_its_part(workspace: Workspace) -> None:
    """A writer whose disk failed may have put rows into the part that never reached the journal."""
    put(workspace, "attempts", "run-0000", attempt(1), attempt(2))
    (workspace.root / "journals" / "run-0000.jsonl").write_bytes(GOOD + b"\n")
    seal_orphans(workspace)
    assert rows(workspace, "SELECT task_id FROM attempts ORDER BY task_id") == [("1",), ("2",)]


# What killed commands left ------------------------------------------------------------------------------------------


def test_folders_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from rolloutops.store.scratch import scratch\n"
        "with scratch(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'file').write_text('x'); print('made', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "dead")]
    with subprocess.Popen(words, env=environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        sweep_scratch(tmp_path)
        assert (tmp_path / "dead" / "file").exists(), "it lives"
        process.kill()
    (tmp_path / "older").mkdir()
    with scratch(tmp_path / "mine"):
        sweep_scratch(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.lock", "mine"]
    assert list(tmp_path.iterdir()) == []


def test_a_build_killed_between_its_renames_is_the_one_before(tmp_path: Path) -> None:
    for name in (".sft.new-7-ab", ".sft.old-7-ab", ".dpo.old-8-cd", "dpo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(name)
    sweep_replaced(tmp_path)
    assert {path.name: (path / "train.jsonl").read_text() for path in tmp_path.iterdir()} == {
        "sft": ".sft.old-7-ab",
        "dpo": "dpo",
    }


def test_an_export_that_was_killed_leaves_nothing_for_long(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", sums(3))
    rolloutops("collect", "--input=in.jsonl", "--data=w", "--engine=scripted", cwd=tmp_path)
    left = tmp_path / ".out[1].jsonl.tmp-7-ab"
    left.mkdir()
    (left / "out[1].jsonl").write_text("half a line")
    rolloutops("export", "--data=w", "--output=out[1].jsonl", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out[1].jsonl", "w"]


# Run ids ------------------------------------------------------------------------------------------------------------


def test_an_id_is_greater_than_all_that_are_there(workspace: Workspace) -> None:
    def make(name: str) -> None:
        path = workspace.root / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()

    names = ["runs/20400101T000000-000001-start.parquet", "verdicts/d/20410101T000000-fffffe-0000.parquet"]
    names += ["jobs/20420101T000000-abcdef-00000001-ended.parquet", "journals/20430101T000000-abcdef-0001.jsonl"]
    names += ["tasks/d/removed-20440101T000000-abcdef.parquet", "attempts/d/20450101T235959-ffffff-import-0000.parquet"]
    for name in names:
        make(name)
        with next_run_id(workspace) as run_id:
            assert run_id > Path(name).name.removeprefix("removed-")[:22]
            assert int(run_id[:4]) - int(Path(name).name.removeprefix("removed-")[:4]) in (0, 1)
    make("journals/99991231T235959-ffffff-0000.jsonl")  # no time comes after it, so that it is nobody's id
    put(workspace, "attempts", "copied-by-hand", attempt(1, run_id="20460101T000000-abcdef"))
    assert greatest(workspace) == "20460101T000000-abcdef"
    assert following("20460101T000000-abcdef", datetime(2026, 1, 1, tzinfo=UTC)).startswith("20460101T000001-")


def test_commands_that_start_in_one_moment_have_ids_in_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", sums(2))
    rolloutops("chunk", "--input=in.jsonl", "--data=w", "--environment=exact_match", cwd=tmp_path)
    words = command("verify", "--data=w")
    started = [subprocess.Popen(words, cwd=tmp_path, env=environ(), stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(120) for process in started] == [0] * 4
    reported = query(tmp_path / "w", "SELECT run_id FROM runs WHERE event = 'start' ORDER BY happened_at")
    assert reported == sorted(set(reported))
    assert len(reported) == 5


def test_a_verdict_of_today_wins_over_one_of_tomorrow(tmp_path: Path) -> None:
    """A clock that was wrong for an hour: what is verified again counts, and the newest recipe is the last one."""
    write_jsonl(tmp_path / "in.jsonl", sums(5))
    (tmp_path / "judge.py").write_text(
        "import os\nclass Judge:\n    def verify(self, task, rollout):\n"
        "        if os.path.exists('broken'): raise RuntimeError('down')\n        return 1.0\n"
        "def make(): return Judge()\n"
    )
    (tmp_path / "broken").touch()
    (tmp_path / "clock.py").write_text(
        "import datetime, runpy, sys\n"
        "class Late(datetime.datetime):\n"
        "    @classmethod\n    def now(cls, tz=None):\n"
        "        return datetime.datetime.fromtimestamp(__import__('time').time() + 86400 * 400, tz)\n"
        "datetime.datetime = Late\nsys.argv[0] = 'rolloutops'\nrunpy.run_module('rolloutops', run_name='__main__')\n"
    )
    flags = ["--input=in.jsonl", "--data=w", "--environment=judge.py:make", "--engine=scripted"]
    late = [sys.executable, "clock.py", "collect", *flags]
    subprocess.run(late, cwd=tmp_path, env=environ(), check=True, capture_output=True)
    (tmp_path / "broken").unlink()
    assert query(tmp_path / "w", "SELECT count(*), count(reward) FROM rollouts") == [(5, 0)]
    rolloutops("verify", "--data=w", "--retry_errors", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*), count(reward) FROM rollouts") == [(5, 5)]
    last = "SELECT command FROM runs ORDER BY run_id DESC LIMIT 1"
    assert query(tmp_path / "w", last) == [("verify",)]


# Mounts where locks do not reach ------------------------------------------------------------------------------------

MOUNTS = r"""
21 1 0:1 / / rw,relatime shared:1 - overlay overlay rw
30 21 0:30 / /mnt/s3 rw,nosuid - fuse.s3fs s3fs rw,user_id=0
31 21 0:31 / /mnt/plain rw - fuse /dev/fuse rw
32 21 8:3 / /mnt/ntfs rw - fuseblk /dev/sda3 rw
33 21 0:33 / /mnt/ceph rw - ceph 10.0.0.1:/ rw
34 21 0:34 / /mnt/nfs4 rw shared:7 master:3 - nfs4 server:/x rw,vers=4.2,local_lock=none
35 21 0:35 / /mnt/nfs4local rw - nfs4 server:/x rw,vers=4.2,local_lock=flock
36 21 0:36 / /mnt/nfs3 rw - nfs server:/x rw,vers=3,nolock,local_lock=all
37 21 0:37 / /mnt/posix rw - nfs server:/x rw,vers=3,local_lock=posix
38 21 0:38 / /mnt/smb rw - cifs //server/x rw,vers=3.1.1
39 21 0:39 / /mnt/9p rw - 9p share rw,trans=virtio
40 21 0:40 / /mnt/lustre rw,flock - lustre 10.0.0.1@tcp:/x rw,flock
41 21 0:41 / /mnt/lustrelocal rw - lustre 10.0.0.1@tcp:/x rw,localflock
42 30 8:1 / /mnt/s3/local rw - ext4 /dev/sda1 rw
43 21 0:43 / /mnt/with\040space rw - smb3 //server/x rw
44 21 8:1 / /mnt/under rw - ext4 /dev/sda1 rw
45 21 0:45 / /mnt/under rw - fuse.gcsfuse bucket rw
"""


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("/home/data", ""),
        ("/mnt/s3", "fuse.s3fs"),
        ("/mnt/s3/deep/w", "fuse.s3fs"),
        ("/mnt/s3x/w", ""),
        ("/mnt/s3/local/w", ""),
        ("/mnt/plain/w", "FUSE"),
        ("/mnt/ntfs/w", ""),
        ("/mnt/ceph/w", ""),
        ("/mnt/nfs4/w", ""),
        ("/mnt/nfs4local/w", "local_lock=flock"),
        ("/mnt/nfs3/w", "nolock"),
        ("/mnt/posix/w", ""),
        ("/mnt/smb/w", "cifs"),
        ("/mnt/9p/w", "9p"),
        ("/mnt/lustre/w", ""),
        ("/mnt/lustrelocal/w", "localflock"),
        ("/mnt/with space/w", "smb3"),
        ("/mnt/under/w", "fuse.gcsfuse"),
    ],
)
def test_where_locks_reach_is_read_from_the_mounts(place: str, why: str) -> None:
    reported = why_locks_end_here(mount_of(Path(place), MOUNTS))
    assert why in reported
    assert bool(reported) == bool(why)


@pytest.fixture
def bucket(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace on a mount where locks do not reach other hosts; beats are short."""
    monkeypatch.setattr(heartbeat, "why_locks_end_here", lambda mount: "fuse.s3fs: a FUSE mount")
    monkeypatch.setattr(heartbeat, "BEAT", 0.05)
    return workspace


def beat(workspace: Workspace, **more: Any) -> Path:
    """The beat of another host, or of a process that differs from this one in what is given."""
    reported = {"host": "other", "boot_id": "another-boot", "device": 1, "namespace": "pid:[1]", "pid": 4711}
    other = Beat(**{**reported, "settled": True, "at": time.time(), **more})
    path = workspace.root / "locks" / other.name
    path.write_text(json.dumps(vars(other)))
    return path


def own() -> dict[str, Any]:
    """What processes of this kernel have in common."""
    return {"boot_id": heartbeat._boot_id(), "namespace": heartbeat._namespace(), "host": "this"}


def at_work(workspace: Workspace, shared: bool = False) -> bool:
    """Whether a command may begin here."""
    try:
        with beating(workspace, shared, lambda error: None):
            assert list((workspace.root / "locks").glob("beat-*"))
            return True
    except WorkspaceError:
        return False


def test_another_host_at_work_is_a_refusal(bucket: Workspace) -> None:
    assert at_work(bucket)
    other = beat(bucket)
    assert not at_work(bucket)
    assert at_work(bucket, shared=True)
    other.unlink()
    assert at_work(bucket)
    assert not list((bucket.root / "locks").glob("*beat-*")), "an ended command leaves no beat"


def test_two_mounts_on_one_host_are_two_hosts(bucket: Workspace) -> None:
    device = os.stat(bucket.root).st_dev
    beat(bucket, **own(), pid=os.getppid(), device=device)
    assert at_work(bucket), "one mount: its locks tell"
    beat(bucket, **own(), pid=os.getppid(), device=device + 1)
    assert not at_work(bucket)


def test_a_killed_process_of_this_host_is_known_to_be_dead(bucket: Workspace) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    path = beat(bucket, **own(), pid=ended.pid)
    assert at_work(bucket)
    assert not path.exists()


def test_an_old_beat_that_goes_on_is_a_clock_that_is_wrong(
    bucket: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hours = time.time() - 7200
    path = beat(bucket, at=hours)
    assert at_work(bucket), "nothing came for two beats: it is dead"
    assert not path.exists()
    beat(bucket, at=hours)
    monkeypatch.setattr(heartbeat.time, "sleep", lambda seconds: beat(bucket, at=hours + 5))
    assert not at_work(bucket)
    assert "other used this workspace before" in capsys.readouterr().err


def test_of_two_that_begin_together_one_goes_on(bucket: Workspace) -> None:
    beat(bucket, host="zzz", settled=False)
    assert at_work(bucket), "the other one will see this one, and end"
    beat(bucket, host="---", settled=False)
    assert not at_work(bucket)


def test_a_host_that_was_not_listed_at_the_start_ends_the_run(bucket: Workspace) -> None:
    """A bucket may show an old listing for a while."""
    ends: list[Exception] = []
    with beating(bucket, False, ends.append):
        beat(bucket, host="---")
        until = time.monotonic() + 20
        while not ends and time.monotonic() < until:
            time.sleep(0.01)
    assert "--- (pid 4711) works in" in str(ends[0])


def test_a_collector_beside_another_host_is_refused_before_it_asks_anything(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", sums(3))
    (tmp_path / "mounts").write_text("21 1 0:1 / / rw - fuse.rclone bucket: rw\n")
    (tmp_path / "fuse.py").write_text(
        "import runpy, sys\nfrom pathlib import Path\nfrom rolloutops.store import mounts\n"
        "mounts.MOUNTINFO = Path('mounts')\nsys.argv[0] = 'rolloutops'\n"
        "runpy.run_module('rolloutops', run_name='__main__')\n"
    )
    words = [sys.executable, "fuse.py", "collect", "--input=in.jsonl", "--data=w", "--engine=scripted"]
    beat(open_workspace(tmp_path / "w", create=True))

    def collect(*more: str) -> tuple[int, str]:
        done = subprocess.run([*words, *more], cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    code, reported = collect()
    assert code == 2
    assert reported.splitlines()[-1].startswith("rolloutops: other (pid 4711) works in w too")
    assert not list((tmp_path / "w").rglob("*.parquet"))
    assert collect("--shared_locks=true")[0] == 0
    assert "shared_locks" not in query(tmp_path / "w", "SELECT string_agg(recipe::VARCHAR) FROM runs")[0][0]
    shutil.rmtree(tmp_path / "w")
    assert collect()[0] == 0
