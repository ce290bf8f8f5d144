#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Draws a run's figures, each as .png and .svg, from samples.csv and the raw files.

  figures/counts           line transfers per connection by subsystem, by setup (stacks.py)
  figures/counts-workers   counts over the number of workers
  figures/forest           ratios to the baseline, with a line at 1 (forest.py)
  figures/throughput       requests per second by setup, with 95 % intervals (times.py)
  figures/latency          p50, p90 and p99 by setup
  figures/workers          both over the number of workers, or of connections, where the
  figures/concurrency      experiment has more than two of them
  figures/TOOL-latency-C   latency over requests at concurrency C (gnuplot, tails.py); with
                           several numbers of workers W TOOL-latency-C-W. Not of more setups
                           than can be told apart
  figures/tail             the slowest requests
  figures/compared-A       the run beside run A, of documents that compare both: make docs draws
                           it (docs/fill.py)
"""
import argparse
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
import contract  # noqa: E402 (its folder has to be named first)
import forest  # noqa: E402
import stacks  # noqa: E402
import tails  # noqa: E402
import times  # noqa: E402
from study import Study  # noqa: E402


def draw(study):
    """Draws all figures anew. If one cannot be drawn, or this process is killed, the figures that
    were there are not lost."""
    figures, old = study.run / "figures", study.run / "figures.old"
    if old.exists():    # of a process that was killed
        shutil.rmtree(figures, ignore_errors=True)
        old.rename(figures)
    figures.mkdir(exist_ok=True)
    figures.rename(old)
    try:
        figures.mkdir()
        for drawing in (stacks, forest, times, tails):
            drawing.draw(study)
        # make docs draws those, since they need another run as well.
        for kept in old.glob("compared-*"):
            shutil.copy2(kept, figures)
    except BaseException:
        shutil.rmtree(figures, ignore_errors=True)
        old.rename(figures)
        raise
    shutil.rmtree(old)


def main():
    parser = argparse.ArgumentParser(description="Draw the figures of runs.")
    parser.add_argument("run", type=Path, nargs="+", help="a run's folder")
    for run in parser.parse_args().run:
        contract.known(run)
        if not contract.read_samples(run):
            print(f"{run.name}: no repetition has finished yet, so nothing is drawn; make sweep "
                  "begins or continues a run")
            continue
        study = Study(run)
        draw(study)
        print(f"drawn: {len(list((run / 'figures').glob('*.png')))} figures in "
              f"results/{study.plan['experiment']}/{run.name}/figures")


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"plot: {error}")
