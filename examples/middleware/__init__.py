"""A program that looks after the containers of one middleware."""

from examples.middleware.manager import Middleware, Version

__all__ = ["Middleware", "Version"]
