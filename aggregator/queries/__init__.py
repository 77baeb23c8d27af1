"""Stored rows in, answers with totals and a completeness figure out."""
