"""The audit log: facts become leaves of a signed Merkle tree that an outsider can replay."""
