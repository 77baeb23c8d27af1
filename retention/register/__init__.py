"""The register: holds, purges and the leaves they owe the audit log, in one durable place."""
