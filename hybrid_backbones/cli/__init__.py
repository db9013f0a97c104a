"""The commands: `hb NAME`, and the scripts in tools/, each over one file here."""
