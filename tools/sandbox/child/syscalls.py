"""The system calls that a program needs; every other one fails with EPERM.

Written as names, so that one list serves x86-64 and arm64; a name that an architecture lacks is skipped.
Absent on purpose: every way to a network, another process, a new program, a new namespace, shared or
anonymous files, io_uring, and the queues and timers by which one process can signal another.
"""

ALLOWED = tuple(
    """
read readv pread64 preadv write writev lseek close fstat newfstatat stat lstat statx
open openat access faccessat faccessat2 readlink readlinkat getcwd getdents getdents64 fadvise64
dup dup2 dup3 pipe pipe2 poll ppoll select pselect6
mmap munmap mremap mprotect madvise brk
set_robust_list rseq set_tid_address
gettid getpid getppid getpgrp getuid geteuid getgid getegid getresuid getresgid getgroups
getrusage times sysinfo uname getcpu sched_yield getrlimit
nanosleep gettimeofday time
getrandom rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack
alarm setitimer getitimer pause restart_syscall exit exit_group
""".split()  # noqa: SIM905 - a table is easier to read than a hundred quoted words
)

# fcntl could aim SIGIO at another process (F_SETOWN) or make a lease or a seal.
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
IOCTL_COMMANDS = (0x5401, 0x541B, 0x5421, 0x5451, 0x5413)  # TCGETS, FIONREAD, FIONBIO, FIOCLEX, TIOCGWINSZ

# A thread without CLONE_FILES has a descriptor table of its own, and with it another 64 descriptors.
CLONE_THREAD = 0x00010000 | 0x00000400  # THREAD, FILES
CLONE_NEW = 0x7E020080 | 0x00004000 | 0x00001000  # every namespace, VFORK, PIDFD

_INT = 0xFFFFFFFF
# The priority-inheriting operations take the id of a thread, and show whether it exists.
FUTEX_OPERATIONS = (
    0,
    1,
    3,
    4,
    5,
    9,
    10,
)  # WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, WAIT_BITSET, WAKE_BITSET
FUTEX_FLAGS = 128 | 256  # PRIVATE, CLOCK_REALTIME

RESTRICTED: tuple[tuple[str, int, int, int], ...] = (
    # CLOSE_RANGE_UNSHARE would give each thread a descriptor table of its own.
    ("close_range", 2, _INT, 0),
    # Of another process these show that it exists.
    ("getpgid", 0, _INT, 0),
    ("getsid", 0, _INT, 0),
    ("sched_getaffinity", 0, _INT, 0),
    # A negative clock is the processor time of a process, of any process; the fixed clocks are below 16.
    ("clock_gettime", 0, _INT & ~15, 0),
    ("clock_getres", 0, _INT & ~15, 0),
    ("clock_nanosleep", 0, _INT & ~15, 0),
    *(("fcntl", 1, _INT, command) for command in FCNTL_COMMANDS),
    *(("ioctl", 1, _INT, command) for command in IOCTL_COMMANDS),
    *(("futex", 1, _INT & ~FUTEX_FLAGS, operation) for operation in FUTEX_OPERATIONS),
    ("clone", 0, CLONE_THREAD | CLONE_NEW, CLONE_THREAD),
)
"""Calls that are allowed if argument `n`, under a mask, has a value: (name, n, mask, value)."""
