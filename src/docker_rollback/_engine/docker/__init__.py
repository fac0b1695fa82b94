"""Implements engines over docker-py. Importing this package imports docker-py."""

from docker_rollback._engine.docker.engine import DockerEngine
