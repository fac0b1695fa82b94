"""Volume data out and in: directly or by a helper, behind one face."""

from docker_rollback._volumes._access import Reach, VolumeAccess
from docker_rollback._volumes._capture import LIVE_FROM, Progress, VolumeCapture, read_archive
from docker_rollback._volumes._flags import clear_flags
from docker_rollback._volumes._helper import ROLE, remove_left_over
from docker_rollback._volumes._host import PLACE
from docker_rollback._volumes._root import drop_attributes
from docker_rollback._volumes._tar import attributes, check_extracted, emptying, extract

__all__ = [
    "LIVE_FROM",
    "PLACE",
    "ROLE",
    "Progress",
    "Reach",
    "VolumeAccess",
    "VolumeCapture",
    "attributes",
    "check_extracted",
    "clear_flags",
    "drop_attributes",
    "emptying",
    "extract",
    "read_archive",
    "remove_left_over",
]
