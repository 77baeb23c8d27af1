"""Keeps what the law requires, holds what a court orders, destroys the rest and proves it."""
