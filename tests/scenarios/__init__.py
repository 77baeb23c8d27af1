"""The conformance suite: traffic whose records are known by construction. See README.md here."""
