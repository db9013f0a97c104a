"""Data: the embedded mini set, and loading that names the file when something is wrong with it."""
