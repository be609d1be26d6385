"""What a disk refuses, as sentences: full, read-only, broken, gone, without locks.

Every stage that writes runs inside `workspace.writing`, which asks here. An error that has nothing to do with the
workspace, such as one of a socket, is left as it is.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rolloutops.errors import WorkspaceError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
BROKEN = (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.EUCLEAN, errno.EBADMSG)
"""Errors of disks and network file systems, also where no file is named: no socket gives them."""
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def sentence_of(root: Path, error: OSError) -> str | None:
    """Return what an error means for the workspace at `root`; None if it is not about the workspace."""
    named = error.filename2 or error.filename
    if isinstance(error, ConnectionError) or (named is not None and not _inside(root, named)):
        return None
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    place = f" at {named}" if named else ""
    stays = "what is stored stays"
    if error.errno in FULL:
        which = f" ({reason})" if error.errno == errno.EDQUOT else ""
        return f"no space is left in {root}{which}: free some, and run the same command again; {stays}"
    if error.errno in REFUSED:
        return f"{root} cannot be written ({reason}): make it writable, or name another with --data"
    if error.errno in WITHOUT_LOCKS:
        return f"the file system of {root} has no file locks ({reason}): mount it with them (Lustre: -o flock), or move"
    if error.errno in BROKEN:
        return f"the disk of {root} failed ({reason}{place}): check it, and run the same command again; {stays}"
    if named is not None and error.errno == errno.ENOENT:
        return f"{named} is gone: was {root} moved or removed while the command ran? Run the same command again"
    if named is not None and error.errno is not None:
        return f"{root} cannot be written ({reason}{place}): fix this, and run the same command again; {stays}"
    return None


def refusal(root: Path, error: OSError) -> WorkspaceError | None:
    """Return the error as one of the workspace; None if it is not about the workspace."""
    said = sentence_of(root, error)
    return None if said is None else WorkspaceError(said)


def write_failed(root: Path, error: OSError) -> WorkspaceError:
    """Return a failed write of the workspace's own as a sentence, whatever its error number."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return refusal(root, error) or WorkspaceError(
        f"{root} cannot be written ({reason}): fix this, and run the same command again; what is stored stays"
    )


def _inside(root: Path, name: object) -> bool:
    """Whether an error's file is in the workspace; a file descriptor may."""
    if not isinstance(name, str | bytes | os.PathLike):
        return True
    path = Path(os.fsdecode(name)).absolute()
    return path == root.absolute() or root.absolute() in path.parents
