"""Runs one scanner over a corpus, in its environment: ``scan_child.py TOOL SECONDS MEMORY < corpus.json``.

Standard input is a list of ``{"name", "path", "home"}``; ``home`` is an empty folder to run in. One JSON line
per case goes to standard output. The scanner is imported once; each case then runs in a forked process with
limits, through the command line's own entry point where there is one: a crash or a hang costs one case.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable


def picklescan() -> Callable[[str], object]:
    """Its command line: ``picklescan --path FILE``."""
    from picklescan.cli import main

    return command_line(main, "--path")


def modelscan() -> Callable[[str], object]:
    """Its command line: ``modelscan --path FILE``."""
    from modelscan.cli import main

    return command_line(main, "--path")


def ckpttool() -> Callable[[str], object]:
    """Its command line: ``ckpttool inspect --globals --fail-on findings FILE``."""
    from ckpttool.cli import main

    return lambda path: main(["inspect", "--globals", "--fail-on", "findings", path])


def fickling() -> Callable[[str], object]:
    """Its library, as its own ``--huggingface`` scan calls it: ``--check-safety`` opens no torch zip."""
    import zipfile

    from fickling import scan_file, scan_zip_archive
    from fickling.analysis import Severity

    def scan(path: str) -> int:
        if os.path.isfile(path) and zipfile.is_zipfile(path):
            results = list(scan_zip_archive(path, graceful=True).values())
        else:
            results = [scan_file(path, graceful=True)]
        worst, errors = Severity.LIKELY_SAFE, []
        for result in results:
            errors += result.errors
            for one in result.results:
                worst = max(worst, one.severity)
        print(worst.name, *errors, sep="\n")
        return 1 if worst > Severity.LIKELY_SAFE else 2 if errors or not results else 0

    return scan


def unpickle() -> Callable[[str], object]:
    """No scanner: what must set off the canary, if the canary works."""
    import pickle

    def load(path: str) -> None:
        with open(path, "rb") as file:
            pickle.load(file)

    return load


def command_line(main: Callable[[], object], option: str) -> Callable[[str], object]:
    """An entry point that reads ``sys.argv`` and exits."""

    def run(path: str) -> object:
        sys.argv = [sys.argv[0], option, path]
        return main()

    return run


KEPT = 1 << 19  # bytes of a tool's output, from its beginning and from its end

TOOLS = {tool.__name__: tool for tool in (picklescan, fickling, modelscan, ckpttool, unpickle)}


def run_case(scan: Callable[[str], object], path: str, home: str, limits: tuple[int, int]) -> None:
    """In the fork: never returns. Exit status 99 stands for an exception that nothing caught."""
    os.setsid()
    os.chdir(home)
    output = os.open("output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(0)
    resource.setrlimit(resource.RLIMIT_CPU, (limits[0], limits[0] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (limits[1], limits[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        status = scan(path)
    except SystemExit as error:
        status = error.code
    except BaseException:  # noqa: BLE001 - a scanner's crash is what is asked for
        import traceback

        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def measure(scan: Callable[[str], object], job: dict[str, str], limits: tuple[int, int]) -> dict[str, object]:
    """Exit status (negative: the signal), whether the limit of time was met, peak memory, output."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        run_case(scan, job["path"], job["home"], limits)
    # A wait (on a FIFO, say) takes no processor time: it ends after six times as long on the wall.
    deadline, found = time.monotonic() + 6 * limits[0], 0
    while found == 0:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found == 0:
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    with open(os.path.join(job["home"], "output"), "rb") as file:
        output = file.read(KEPT)
        if file.seek(0, os.SEEK_END) > KEPT:
            file.seek(max(KEPT, file.tell() - KEPT))
            output += file.read()
    os.unlink(os.path.join(job["home"], "output"))
    return {
        "name": job["name"],
        "status": code,
        "late": code in (-signal.SIGXCPU, -signal.SIGKILL),
        "seconds": usage.ru_utime + usage.ru_stime,
        "peak_nbytes": usage.ru_maxrss * 1024,
        "output": output.decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace").decode(),
        "created": sorted(os.listdir(job["home"])),
    }


def main() -> None:
    """Run every case of standard input."""
    tool, seconds, memory = sys.argv[1:]
    scan = TOOLS[tool]()
    for job in json.load(sys.stdin):
        print(json.dumps(measure(scan, job, (int(seconds), int(memory)))), flush=True)


if __name__ == "__main__":
    main()
