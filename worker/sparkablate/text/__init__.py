"""Texts, prompts and templates become token ids."""
