"""Volume data out and in: directly or by a helper, behind one face."""

from docker_rollback._volumes._access import VolumeAccess
from docker_rollback._volumes._again import tried
from docker_rollback._volumes._capture import LIVE_FROM, ByteListener, SizeListener, VolumeCapture
from docker_rollback._volumes._fill import Filling
from docker_rollback._volumes._helper import remove_left_over
from docker_rollback._volumes._host import PLACE
from docker_rollback._volumes._image import REPOSITORY as HELPER_REPOSITORY
from docker_rollback._volumes._mounts import gaps as mount_gaps
from docker_rollback._volumes._proof import began_with, is_first_of_its_namespace, is_main_program, may_do_anything
from docker_rollback._volumes._reach import Reach
from docker_rollback._volumes._scratch import remove_dead_scratch
from docker_rollback._volumes._survey import Survey, earlier, survey
from docker_rollback._volumes._tar import failed

__all__ = [
    "HELPER_REPOSITORY",
    "LIVE_FROM",
    "PLACE",
    "ByteListener",
    "Filling",
    "Reach",
    "SizeListener",
    "Survey",
    "VolumeAccess",
    "VolumeCapture",
    "began_with",
    "earlier",
    "failed",
    "is_first_of_its_namespace",
    "is_main_program",
    "may_do_anything",
    "mount_gaps",
    "remove_dead_scratch",
    "remove_left_over",
    "survey",
    "tried",
]
