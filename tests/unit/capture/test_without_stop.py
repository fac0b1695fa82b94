"""A file that changes while a backup reads it."""

from __future__ import annotations

from typing import Literal

import pytest

from docker_rollback import backup
from docker_rollback.errors import ArchiveError
from tests.unit.shop import Shop, changed_as_tar_reads


@pytest.mark.parametrize(("quiesce", "fails"), [("none", False), ("pause", True), ("stop", True)])
def test_only_in_what_runs_on_may_a_file_change(
    shop: Shop, quiesce: Literal["none", "pause", "stop"], *, fails: bool
) -> None:
    """In what is stopped or paused nobody should write."""
    shop.engine.program("tar", changed_as_tar_reads)
    if fails:
        with pytest.raises(ArchiveError, match="changed while they were read"):
            backup("shop", client=shop.engine, store=shop.store, quiesce=quiesce)
        assert shop.store.ids() == []
    else:
        assert backup("shop", client=shop.engine, store=shop.store, quiesce=quiesce).quiesce == "none"
    assert shop.engine.container("shop").status == "running"
