"""The in-memory engine: an engine's objects, their files, and the programs that run on those."""
