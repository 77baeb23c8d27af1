"""Rows by address become rows by subscriber, or rows with the reason why not; never a guess."""
