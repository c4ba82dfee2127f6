"""Tools that make the data files of ``llama.privacy``; they run on a developer's machine, never on a device."""
