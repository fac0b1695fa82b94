"""The fault sweep: a rollback on a real engine, broken at every effect it has, recovered, and compared.

As a command::

    python -m tests.faults                              every case; hours
    python -m tests.faults --minutes 8 --seed 3         a sample that fits the time, the same for the same seed
    python -m tests.faults --only backup:kill-after:17 --scene helper-dirty
    python -m tests.faults --list                       how many cases there are

An *effect* is whatever lasts when the process that did it dies: a request to the engine that changes something, a
piece of input for a program in a container, a write, fsync, rename or removal in the store and the journal, a tar that
is started on a volume. A *case* is one effect of one phase (backup, body, rollback, commit) and one fault there.

The parts: `cases` says what can be broken and chooses (pure); `referee` counts the effects and decides; `relay` stands
between the library and the engine; `victim` is the process that rolls back, forked for each case; `world` is the
containers and their surroundings, of which there are two, the `shop` and the `group`; `oracle` looks at them, past
everything under test; `run` plays one case; `report` writes the table.
"""
