"""The benchmarks: what a backup and a rollback cost, beside other ways to do the same, measured in one run.

As a command, as root on Debian::

    python -m bench                                   all of it, into docs/reference/benchmarks.md
    python -m bench --size small                      whether it works, in two minutes; nothing is written
    python -m bench --only postgresql --rounds 1      a part of it; nothing is written

The engine is private (`tests.engines`), and everything that is made lies in its data folder, which goes with it.
"""
