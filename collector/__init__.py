"""Runs on edge routers: packets and kernel counters in, durable record batches out."""
