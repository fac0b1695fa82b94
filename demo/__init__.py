"""The demonstration: a failed update of a PostgreSQL container, and what becomes of it."""
