"""Makes an update transactional: the block, its checks and its outcome."""

from docker_rollback._rollback.checked_container import Check, CheckedContainer
from docker_rollback._rollback.checks import eventually, healthy, http_ok, tcp_open
from docker_rollback._rollback.options import RollbackOptions, RollbackParts
from docker_rollback._rollback.outcome import (
    ArchivedVolume,
    BackedUp,
    Outcome,
    OutcomeListener,
    RejectedCheck,
    Status,
    Trouble,
)
from docker_rollback._rollback.rollback import Rollback
from docker_rollback._rollback.update_image import Pull
