"""The one door to container engines."""
