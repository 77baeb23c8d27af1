"""SafeGuard: blocked look-ups of households in, noisy counts of a public domain out.

    Blocked -> households (keyed tags and caps of one UTC day, in memory only)
            -> release (true counts + discrete Laplace noise, every cell of the domain)
            -> rows of block_count and safeguard_ledger

Nothing of a household is in a snapshot, a journal, a log, a metric or an exception.
"""
