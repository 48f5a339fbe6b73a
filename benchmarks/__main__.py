"""``make bench``: what each command costs, as ratios to what does the least and to other tools, in one run.

    python -m benchmarks [--quick] [--only JOB] [--peers DIR] [--dir DIR] [--json FILE]

Makes checkpoints of three sizes in three numbers of tensors, and has every job done by ckpttool, by the
references and, with --peers, by other tools: all in turn, so that a busy minute hits all alike. A ratio is
the median over pairs of runs of the same round. ``python -m benchmarks.report FILE`` makes the page and the
chart of the JSON; ``benchmarks.startup`` tells what starting costs. ``benchmarks.kinds`` (needs timm and
transformers) and ``benchmarks.cuda`` (needs a GPU) are commands of their own.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.contenders import JOBS
from benchmarks.machine import describe_machine
from benchmarks.measure import TIMEOUT, compile_package
from benchmarks.peers import PEERS, Peer, install
from benchmarks.results import Results, write_results
from benchmarks.running import Grid, run_cell
from benchmarks.tables import race_text, summary_text

MIB = 1 << 20
FULL = Grid((64 * MIB, 512 * MIB, 2048 * MIB), (20, 1_000, 20_000))
QUICK = Grid((64 * MIB,), (1_000,))
LEAST_ROUNDS = 5


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one small checkpoint, three rounds, some two minutes"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="JOB", help=f"a beginning of: {', '.join(JOBS)}"
    )
    parser.add_argument("--rounds", type=int, help=f"pairs of each job (default {LEAST_ROUNDS}; --quick: 3)")
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="measure other tools too, installed below DIR"
    )
    parser.add_argument("--dir", type=Path, help="where files are made: 15 GB of room (default: $TMPDIR)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every run; made anew after each race"
    )
    # For tests: a grid of its own.
    parser.add_argument("--sizes", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--counts", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    for prefix in options.only:
        if not any(key.startswith(prefix) for key in JOBS):
            parser.error(f"--only {prefix}: no such job; there are {', '.join(JOBS)}")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run, print as it goes, and write; 1 if a command of ckpttool failed or gave a wrong answer."""
    options = parse_arguments(argv)
    grid = QUICK if options.quick else FULL
    grid = Grid(tuple(options.sizes or grid.sizes), tuple(options.counts or grid.counts))
    rounds = options.rounds or (3 if options.quick else LEAST_ROUNDS)
    for folder in (options.dir, options.json and options.json.parent):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    compile_package()
    root = options.peers and options.peers.resolve()
    results = Results({**describe_machine(options.dir), "minutes": "0"}, rounds, [], [])
    peers = install_peers(root, results)
    started = time.monotonic()
    for cell in grid.cells():
        jobs = grid.build(cell, options.only, peers, root)
        for race in run_cell(cell, jobs, rounds, options.dir, options.timeout) if jobs else ():
            results.races.append(race)
            results.machine["minutes"] = f"{(time.monotonic() - started) / 60:.0f}"
            print(f"{race_text(race)}\n", flush=True)
            if options.json:
                write_results(results, options.json)
    print(summary_text(results))
    print(f"medians of {rounds} pairs; {results.machine['minutes']} minutes")
    ours = [row for race in results.races for row in race.rows if row.role == "ours"]
    return 1 if any(row.error or row.wrong for row in ours) else 0


def install_peers(root: Path | None, results: Results) -> list[Peer]:
    """Install what can be; note what cannot."""
    if root is None:
        results.skipped.append("other tools: not measured, as no --peers DIR was given")
        return []
    peers = []
    for peer in PEERS:
        if why_not := install(peer, root):
            results.skipped.append(f"{peer.label}: does not install: {why_not}")
        else:
            peers.append(peer)
    return peers


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; what was measured is in the file of --json")
