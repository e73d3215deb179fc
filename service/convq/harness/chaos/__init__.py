"""The proof on demand: a server and a service of its own under load, killed and stopped at random, and a ledger that counts.

Knows nothing of the terminal. `faults` says what is done when, as a pure function of a seed; `nemesis` does it; `stage`
owns the processes that it is done to; `load` keeps jobs in flight; `ledger` holds the books; `trial` is one whole run.
"""
