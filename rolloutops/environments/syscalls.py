"""What a program in the sandbox must not call, so that it can neither write its own verdict nor reach outside.

Only what a filter can tell by numbers is here: `code_harness.py` makes a seccomp filter of it.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""machine -> its audit number, and which of a call's two numbers below is its own."""
CLONE, CLONE3 = (56, 220), (435, 435)
REFUSED = {
    **{"fork": (57,), "vfork": (58,), "unshare": (272, 97), "setns": (308, 268)},  # other processes, other namespaces
    # another process's memory, files, threads and signals: by those a program wrote its own verdict
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272)},
    **{"pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424)},
    **{"process_madvise": (440, 440), "process_mrelease": (448, 448), "tkill": (200, 130)},
    **{"move_pages": (279, 239), "migrate_pages": (256, 238)},
    # what does other calls' work where no filter sees it, or has let many a program out
    **{"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)},
    **{"userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241)},
    # keyrings belong to the user and to no namespace
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)},
    # mounts, and files by handle
    **{"mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430)},
    **{"open_tree": (428, 428), "move_mount": (429, 429), "fsconfig": (431, 431), "fsmount": (432, 432)},
    **{"fspick": (433, 433), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265)},
    # the machine itself, for one that runs as root
    **{"init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142)},
    **{"kexec_load": (246, 104), "kexec_file_load": (320, 294), "swapon": (167, 224), "swapoff": (168, 225)},
    **{"settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161), "syslog": (103, 116)},
}
"""What a child must not call, with its numbers on x86_64 and aarch64."""
OWN: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    **{"kill": ((62, 129), 0, ()), "tgkill": ((234, 131), 0, ()), "rt_sigqueueinfo": ((129, 138), 0, ())},
    **{"rt_tgsigqueueinfo": ((297, 240), 0, ()), "prlimit64": ((302, 261), 0, (0,))},
    **{"setpriority": ((141, 140), 1, (0,))},
}
"""What a child may do to itself alone: the call's numbers, which argument names the process, and whether 0 is itself:
to `kill` it is the whole group."""
SECOND = {
    "fcntl": ((72, 25), (8, 15)),  # F_SETOWN, F_SETOWN_EX: a file that becomes readable signals any process
    "ioctl": ((16, 29), (0x8901, 0x8902, 0x5412, 0x541C)),  # FIOSETOWN, SIOCSPGRP; TIOCSTI, TIOCLINUX type for the user
}
"""What a child may call, but not with these values of the second argument."""


def for_this_machine() -> dict[str, Any] | None:
    """The numbers of this machine, for a job of `code_harness.py`; None where there is no filter for it."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return None
    audit, here = MACHINES[platform.machine()]
    return {
        "audit": audit,
        "clone": CLONE[here],
        "clone3": CLONE3[here],
        "refused": [numbers[here] for numbers in REFUSED.values() if here < len(numbers)],
        "own": [(numbers[here], argument, zero) for numbers, argument, zero in OWN.values()],
        "second": [(numbers[here], values) for numbers, values in SECOND.values()],
    }
