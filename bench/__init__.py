"""The benchmarks: the cost of a backup and a rollback against other methods, measured in one run.

As a command, as root on Debian::

    python -m bench                                   all of it, into docs/reference/benchmarks.md
    python -m bench --size small                      a quick check that it works; nothing is written
    python -m bench --only postgresql --rounds 1      a part of it; nothing is written

The engine is private (`tests.engines`), and everything that is made lies in its data folder, which goes with it.
"""
