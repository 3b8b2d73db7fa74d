"""Greedy continuations under edits."""
