"""Which file system a folder lies on, and whether a lock taken there reaches every process that sees the folder.

`flock` is kept by the kernel. A network file system must pass it on to its server, and some do not: two FUSE mounts of
one bucket both hold the same lock, and so do two NFS clients with `local_lock=flock`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

MOUNTINFO = Path("/proc/self/mountinfo")

PASSED_ON = ("fuseblk", "fuse.ceph", "fuse.ceph-fuse")
"""FUSE file systems that lie on a disk of this machine, or whose server knows the locks."""
NOT_PASSED_ON = ("cifs", "smb3", "smbfs", "smb2", "9p", "virtiofs", "vboxsf", "afs")
NFS_LOCAL = ("nolock", "local_lock=all", "local_lock=flock")


class Mount(NamedTuple):
    """A mounted file system. point: where. kind: its type, as nfs4 or fuse.s3fs. options: its own and the server's."""

    point: str
    kind: str
    source: str
    options: frozenset[str]


def mount_of(folder: Path, mountinfo: str | None = None) -> Mount | None:
    """Return the mount that a folder lies on; None if the machine does not tell.

    mountinfo: the text of /proc/self/mountinfo (proc_pid_mountinfo(5)). Of mounts at one point the last one counts.
    """
    if mountinfo is None:
        try:
            mountinfo = os.fsdecode(MOUNTINFO.read_bytes())
        except OSError:
            return None
    place = os.path.realpath(folder)
    best: Mount | None = None
    for line in mountinfo.split("\n"):
        mount = _mount(line)
        if mount is None or not (place == mount.point or place.startswith(mount.point.rstrip("/") + "/")):
            continue
        if best is None or len(mount.point) >= len(best.point):
            best = mount
    return best


def _mount(line: str) -> Mount | None:
    """Read a line: `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/root rw,errors=continue`."""
    own, dash, rest = line.partition(" - ")
    fields, more = own.split(" "), rest.split(" ")
    if not dash or len(fields) < 6 or len(more) < 2:
        return None
    options = {*fields[5].split(","), *(more[2].split(",") if len(more) > 2 else ())}
    return Mount(_unescaped(fields[4]), more[0].lower(), _unescaped(more[1]), frozenset(options))


def _unescaped(text: str) -> str:
    """Return a field with the octal escapes of space, tab, line feed and backslash undone."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def why_locks_end_here(mount: Mount | None) -> str:
    """Return why locks on a mount do not reach other mounts of the same files; an empty text if they do."""
    if mount is None:
        return ""
    kind = mount.kind
    if (kind == "fuse" or kind.startswith("fuse.")) and kind not in PASSED_ON:
        return f"{kind}: a FUSE mount"
    if kind in NOT_PASSED_ON:
        return kind
    if kind.startswith("nfs"):
        local = next((option for option in NFS_LOCAL if option in mount.options), None)
        return f"{kind} with {local}" if local else ""
    if kind == "lustre" and "localflock" in mount.options:
        return "lustre with localflock"
    return ""
