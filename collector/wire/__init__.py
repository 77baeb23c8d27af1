"""The contract between collectors and aggregators: record classes, batch envelope, codec."""
