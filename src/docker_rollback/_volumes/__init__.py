"""Volume data out and in: directly or by a helper, behind one face."""

from docker_rollback._volumes._access import Reach, Run, VolumeAccess
from docker_rollback._volumes._helper import remove_left_over
from docker_rollback._volumes._root import drop_attributes
from docker_rollback._volumes._stream import CorruptStreamError, pack, unpack
from docker_rollback._volumes._tar import attributes, check_created, check_extracted, create, emptying, extract

__all__ = [
    "CorruptStreamError",
    "Reach",
    "Run",
    "VolumeAccess",
    "attributes",
    "check_created",
    "check_extracted",
    "create",
    "drop_attributes",
    "emptying",
    "extract",
    "pack",
    "remove_left_over",
    "unpack",
]
