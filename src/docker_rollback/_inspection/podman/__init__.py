"""Finds the settings of a Podman container that Docker's API cannot restore. Pure."""
