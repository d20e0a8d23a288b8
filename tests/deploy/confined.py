"""Runs a program as systemd would start it: `python confined.py UID:GID SYSCALLS PROGRAM ARGUMENT...`.

No new privileges, memory never both writable and executable, no other system calls than those in the file
SYSCALLS (others fail with EPERM), the user, and a umask of 0077. systemd's own way: man systemd.exec.
"""

import ctypes
import os
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 38, 65, 1
ALLOW, FAIL_WITH_EPERM = 0x7FFF0000, 0x00050001


def main() -> None:
    user, syscalls, *command = sys.argv[1:]
    libc, seccomp = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(seccomp.seccomp_init(FAIL_WITH_EPERM))
    for name in Path(syscalls).read_text().split():
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # of this machine's architecture
            seccomp.seccomp_rule_add(rules, ALLOW, number, 0)
    os.umask(0o077)
    uid, gid = map(int, user.split(":"))
    if os.geteuid() == 0 and uid != 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == 0
    assert seccomp.seccomp_load(rules) == 0
    os.execv(command[0], command)  # noqa: S606 - it is what this is for


if __name__ == "__main__":
    main()
