"""Two hosts in one workspace, where locks do not reach from one to the other.

On such a mount (`mounts.py`) each command that writes leaves a file in `locks/` and renews it every 5 s. One that finds
the beat of a process behind another mount is refused, since both would hold the same locks, and pay for every rollout
twice. Processes that share a kernel and a mount see each other's locks; two mounts of one bucket on one host do not.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rolloutops.config.redact import tell
from rolloutops.errors import WorkspaceError
from rolloutops.store.mounts import mount_of, why_locks_end_here
from rolloutops.store.workspace import Workspace

BEAT = 5.0
"""Seconds from one beat to the next."""
ALIVE = 60.0
"""Seconds after which a beat is that of a dead process. Buckets may show an old listing for that long."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Beat:
    """A process that writes. boot_id: of the kernel that it runs on. device: of the mount that it writes through.
    namespace: in which its pid counts. settled: it has looked around and found nobody. at: seconds since 1970."""

    host: str
    boot_id: str
    device: int
    namespace: str
    pid: int
    settled: bool
    at: float

    @property
    def name(self) -> str:
        """The name of its file, which is its rank too: of two that began together the first by name goes on."""
        host = re.sub(r"[^A-Za-z0-9.-]", "_", self.host)[:100]
        return f"beat-{host}-{self.boot_id[:8]}-{self.device}-{self.pid}.json"


@contextmanager
def beating(workspace: Workspace, shared: bool, end: Callable[[WorkspaceError], None]) -> Iterator[None]:
    """Let other hosts know of this command while the block runs, where locks do not tell them.

    shared: go on beside others. end: called, in another thread, when another host turns out to be at work after all.
    Raises WorkspaceError if another host is at work.
    """
    why = why_locks_end_here(mount_of(workspace.root))
    if not why:
        yield
        return
    mine = _mine(workspace)
    _write(workspace, mine)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(workspace, mine, shared, why, stop, end), daemon=True)
    try:
        if not shared:
            _refuse_others(workspace, mine, why)
        thread.start()
        yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()
        with suppress(OSError):
            _path(workspace, mine).unlink()


def _mine(workspace: Workspace) -> Beat:
    device = os.stat(workspace.root).st_dev
    return Beat(socket.gethostname(), _boot_id(), device, _namespace(), os.getpid(), False, time.time())


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"


def _refuse_others(workspace: Workspace, mine: Beat, why: str) -> None:
    """Raise WorkspaceError if another host is at work. A beat of a clock that runs otherwise is watched for a while."""
    others = _others(workspace, mine)
    old = {path: beat for path, beat in others.items() if abs(time.time() - beat.at) >= ALIVE}
    for path, beat in others.items():
        if path not in old and (beat.settled or beat.name < mine.name):
            raise _refusal(workspace, beat, why)
    if not old:
        return
    host = next(iter(old.values())).host
    tell(f"{host} used this workspace before: waiting {2 * BEAT:g} s to see whether it still does")
    time.sleep(2 * BEAT)
    _write(workspace, mine)
    for path, beat in _others(workspace, mine).items():
        if path in old and beat.at == old[path].at:
            path.unlink(missing_ok=True)
        elif beat.settled or beat.name < mine.name:
            raise _refusal(workspace, beat, why)


def _beat(
    workspace: Workspace,
    mine: Beat,
    shared: bool,
    why: str,
    stop: threading.Event,
    end: Callable[[WorkspaceError], None],
) -> None:
    """Renew the beat until `stop`, and look for others: a bucket may have shown an old listing at the start."""
    settled = replace(mine, settled=True)
    while True:
        with suppress(OSError):  # the run's own writes tell of a disk that fails
            _write(workspace, settled)
            for beat in _others(workspace, mine).values() if not shared else ():
                if beat.settled and beat.name < mine.name and abs(time.time() - beat.at) < ALIVE:
                    end(_refusal(workspace, beat, why))
        if stop.wait(BEAT):
            return


def _others(workspace: Workspace, mine: Beat) -> dict[Path, Beat]:
    """The beats of processes whose locks do not reach this one. Those of dead processes of this host are taken away."""
    found = {}
    for path in sorted((workspace.root / "locks").glob("beat-*.json")):
        try:
            beat = Beat(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            continue
        same_kernel = beat.boot_id == mine.boot_id != "unknown"
        if same_kernel and beat.device == mine.device:
            continue
        if same_kernel and beat.namespace == mine.namespace != "unknown" and not _lives(beat.pid):
            path.unlink(missing_ok=True)
            continue
        found[path] = beat
    return found


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _refusal(workspace: Workspace, other: Beat, why: str) -> WorkspaceError:
    age = max(0.0, time.time() - other.at)
    return WorkspaceError(
        f"{other.host} (pid {other.pid}) works in {workspace.root} too, seen {age:.0f} s ago, and file locks do not "
        f"work between the two mounts ({why}): both would generate, and pay for, the same rollouts. Wait until it ends "
        f"({ALIVE:.0f} s after a kill), give each host its own workspace, or use a file system with locks (NFS 4, "
        "CephFS, Lustre with flock); --shared_locks=true continues anyway"
    )


def _path(workspace: Workspace, beat: Beat) -> Path:
    return workspace.root / "locks" / beat.name


def _write(workspace: Workspace, beat: Beat) -> None:
    path = _path(workspace, beat)
    hidden = path.with_name(f".{path.name}.tmp")
    hidden.write_text(json.dumps(asdict(replace(beat, at=time.time()))))
    os.replace(hidden, path)
