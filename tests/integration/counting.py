"""What services of the tests run: one counts its requests in two stores, which have to agree whatever happens."""

from __future__ import annotations

from typing import Final

REQUESTS: Final = """
trap 'stop=1' TERM
n=$(cat /rows/count || echo 0)
test "$n" = "$(cat /keys/count || echo 0)" || touch /rows/torn
while [ -z "$stop" ]; do n=$((n+1)); echo $n > /rows/count; echo $n > /keys/count; done
"""
"""One request after the other, each counted in both stores. At its start it looks whether they agree."""

SERVICE: Final = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
"""Whoever has a store."""
