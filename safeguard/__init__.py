"""SafeGuard from outside: what its tables say, signed; and whether its promise is kept.

    tables -> report (counts, error bars, charges) -> signed file -> verify, anywhere
    the running system -> prove (named checks)     -> signed file -> verify, anywhere

Nothing imports this package; it looks at collector, aggregator and retention as an auditor does.
"""
