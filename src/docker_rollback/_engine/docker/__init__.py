"""The engine behind a docker-py client. Importing it imports docker-py."""

from docker_rollback._engine.docker.engine import DockerEngine

__all__ = ["DockerEngine"]
