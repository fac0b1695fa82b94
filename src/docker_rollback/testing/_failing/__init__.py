"""The engine that fails on request, and its record of calls."""
