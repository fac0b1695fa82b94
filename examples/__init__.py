"""Programs that show how this library is used; each one runs, and the tests run it."""
