"""The proof: checks by name, of the installed code and of the running system.

components  the installed collector's SafeGuard, driven through days: caps, keys, zeros, noise
tables      the columns, windows, domains and charges that are stored
surface     what can be seen from outside: metrics pages, log lines, spool and state
canaries    needles in files, batches, captures, columns and the live process's memory
run         all of them, into a document to sign
"""
