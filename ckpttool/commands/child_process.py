"""Going on in a child process, so that a death by signal ends in a sentence and status 2.

``verify`` maps the checkpoint, as ``torch.load(mmap=True)`` does. A mapped file that another process cuts
short kills whoever touches the pages that are gone: SIGBUS, which no Python code can catch. The same
holds for a model whose own code crashes, and for the kernel's out-of-memory killer.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

from ckpttool.values.errors import CkptToolError

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
_SI_USER = 0  # siginfo.h: sent by kill(2); what a terminal sends goes to the child as well
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def go_on_in_child(check_files: Callable[[], None]) -> None:
    """Fork, and return in the child only; the parent ends as the child ended.

    Where torch is there already, or other threads are, this returns at once: neither survives a fork.

    Raises:
        CkptToolError: in the parent: the child was killed. By SIGBUS: what ``check_files`` raises.
    """
    if "torch" in sys.modules or threading.active_count() > 1:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_PASSED_ON, signal.SIGCHLD))
    pid = os.fork()
    if not pid:
        _end_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    handler = signal.signal(signal.SIGCHLD, lambda number, frame: None)  # what is ignored is not waited for
    status = os.waitstatus_to_exitcode(_wait(pid))
    signal.signal(signal.SIGCHLD, handler)
    if status >= 0:
        os._exit(status)  # the child has said everything
    if -status in _PASSED_ON:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(parent, -status)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    raise _describe(signal.Signals(-status), check_files)


def _end_with(parent: int) -> None:
    """Let nothing go on when the parent is killed, where the kernel offers that."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _wait(pid: int) -> int:
    """The wait status of the child; signals that were sent to this process alone are passed on."""
    while True:
        number = _next_signal()
        if number == signal.SIGCHLD:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return status
        elif number:
            os.kill(pid, number)


def _next_signal() -> int:
    """The next signal that is not the child's already; 0 for one that is."""
    waited = (*_PASSED_ON, signal.SIGCHLD)
    if hasattr(signal, "sigwaitinfo"):
        info = signal.sigwaitinfo(waited)
        by_terminal = info.si_signo == signal.SIGINT and info.si_code != _SI_USER
        return 0 if by_terminal else info.si_signo
    number = signal.sigwait(waited)  # macOS: does not tell who sent it, and Ctrl-C is the usual case
    return 0 if number == signal.SIGINT else number


def _describe(number: signal.Signals, check_files: Callable[[], None]) -> CkptToolError:
    if number == signal.SIGBUS:
        check_files()
        return CkptToolError("a page of a mapped file could not be read (SIGBUS): is a disk or memory full?")
    how = "crashed" if number in _CRASHES else "was killed"
    why = ": out of memory?" if number == signal.SIGKILL else ""
    return CkptToolError(f"the process that ran the model {how} ({number.name}){why}")
