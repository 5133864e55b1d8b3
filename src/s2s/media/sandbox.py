"""What a process that decodes strangers' files can no longer ask of the kernel: seccomp, which needs no rights.

Files can be neither opened nor made, moved or removed; there is no network, no other program or process, nothing of
the kernel that a decoder does not need. What is forbidden fails with EPERM. Threads are allowed. Descriptors that are
already open stay.

A program such as ffmpeg must be started and open files by itself (`PROGRAM_NEEDS`); all else is forbidden to it too.

x86-64 and 64-bit ARM. The filter is a list of what is forbidden: one of what is allowed would differ from C library
to C library, and a decoder that fails on one machine helps nobody.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Collection

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUALS, AT_LEAST, HAS_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of classic BPF, on 32-bit words
NUMBER_AT, MACHINE_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # of struct seccomp_data
ALLOW, FORBID, UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
CLONE_THREAD = 0x10000
X32 = 0x40000000  # numbers of another calling convention of the same machine

# system call -> its number on x86-64 and on ARM (None: it is not there)
FORBIDDEN: dict[str, tuple[int, int | None]] = {
    "open": (2, None), "creat": (85, None), "openat": (257, 56), "openat2": (437, 437), "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264), "memfd_create": (319, 279), "truncate": (76, 45),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54),
    "socket": (41, 198), "socketpair": (53, 199), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "connect": (42, 203), "sendto": (44, 206), "sendmsg": (46, 211),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "chroot": (161, 51), "mount": (165, 40), "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268),
    "init_module": (175, 105), "finit_module": (313, 273), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "fanotify_init": (300, 262), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip
MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}  # column, audit number, number of clone
CLONE3 = 435
PROGRAM_NEEDS = frozenset({"open", "creat", "openat", "openat2", "execve"})


def enter() -> bool:
    """Gives these rights up, for this thread and all that it starts, for good. False where there is no seccomp."""
    forbids = program()
    if not forbids:
        return False
    code = ctypes.create_string_buffer(forbids)
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(forbids) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head, 0, 0) == 0


def program(needed: Collection[str] = ()) -> bytes:
    """The filter as instructions of classic BPF, which forbids all of `FORBIDDEN` but `needed`.

    Empty where there is none for this machine.
    """
    if platform.machine() not in MACHINES:
        return b""
    column, machine, clone = MACHINES[platform.machine()]
    wanted = (numbers[column] for name, numbers in FORBIDDEN.items() if name not in needed)
    forbidden = [number for number in wanted if number is not None]
    tests: list[tuple[int, int, int, int]] = [
        (LOAD, 0, 0, MACHINE_AT),
        (EQUALS, 1, 0, machine),
        (RETURN, 0, 0, FORBID),
        (LOAD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, FORBID),
        (EQUALS, 0, 1, CLONE3),  # its flags lie in memory, where a filter cannot look; libraries then use clone
        (RETURN, 0, 0, UNKNOWN),
    ]
    for number in forbidden:
        tests += [(EQUALS, 0, 1, number), (RETURN, 0, 0, FORBID)]
    tests += [
        (EQUALS, 0, 3, clone),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        (HAS_BITS, 1, 0, CLONE_THREAD),
        (RETURN, 0, 0, FORBID),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *test) for test in tests)
