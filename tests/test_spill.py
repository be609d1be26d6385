"""What does not fit into memory is in the workspace while a query runs, and is never taken for data."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from rolloutops.store import sql
from rolloutops.store.workspace import connect, open_workspace

LARGE = "CREATE TABLE large AS SELECT range AS n, md5(range::VARCHAR) AS text FROM range(2000000)"


def test_queries_spill_inside_the_workspace_and_leave_nothing(tmp_path: Path):
    workspace = open_workspace(tmp_path / "w", create=True)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = workspace.root / f".spill-{socket.gethostname()}-{int(gone.stdout)}-0"
    others = workspace.root / f".spill-{socket.gethostname()}-{os.getppid()}-0"
    for folder in (left, others):
        folder.mkdir()
        (folder / "duckdb_temp_storage.tmp").write_bytes(b"killed")
    with connect(workspace, threads=1) as con:
        assert not left.exists(), "what a killed process left is taken away"
        assert others.exists(), "what a running process needs is not"
        sql.run(con, "SET memory_limit = '50MB'")
        sql.run(con, LARGE)
        assert [*workspace.root.glob(f".spill-*-{os.getpid()}-*/*")], "the query spilled"
        assert sql.rows(con, "SELECT count(*) FROM rollouts") == [(0,)]
    assert not [*workspace.root.glob(f".spill-*-{os.getpid()}-*")]
