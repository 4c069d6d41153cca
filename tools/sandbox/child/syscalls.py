"""The system calls that a program needs; every other one fails with EPERM.

Written as names, so that one list serves x86-64 and arm64; a name that an architecture lacks is skipped.
Absent on purpose: every way to a network, another process, a new program, a new namespace, shared or
anonymous files, io_uring, and the queues and timers by which one process can signal another.
"""

ALLOWED = tuple(
    """
read readv pread64 preadv write writev lseek close close_range fstat newfstatat stat lstat statx
open openat access faccessat faccessat2 readlink readlinkat getcwd getdents getdents64 fadvise64
dup dup2 dup3 pipe pipe2 poll ppoll select pselect6
mmap munmap mremap mprotect madvise brk
futex set_robust_list get_robust_list rseq set_tid_address
gettid getpid getppid getpgrp getpgid getsid getuid geteuid getgid getegid getresuid getresgid getgroups
getrusage times sysinfo uname getcpu sched_yield sched_getaffinity getrlimit
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
getrandom rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack
alarm setitimer getitimer pause restart_syscall exit exit_group
""".split()  # noqa: SIM905 - a table is easier to read than a hundred quoted words
)

# fcntl could aim SIGIO at another process (F_SETOWN) or make a lease or a seal.
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
IOCTL_COMMANDS = (0x5401, 0x541B, 0x5421, 0x5451, 0x5413)  # TCGETS, FIONREAD, FIONBIO, FIOCLEX, TIOCGWINSZ

CLONE_THREAD = 0x00010000
CLONE_NEW = 0x7E020080 | 0x00004000 | 0x00001000  # every namespace, VFORK, PIDFD
