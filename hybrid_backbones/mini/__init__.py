"""The embedded mini set, and the preset that runs any config on it."""
