"""Volume data out and in: directly or by a helper, behind one face."""

from docker_rollback._volumes.access.helper_image import HELPER_REPOSITORY
from docker_rollback._volumes.access.mount_points import mount_gaps
from docker_rollback._volumes.archiver import VolumeArchiver
from docker_rollback._volumes.capture.size_survey import Survey
from docker_rollback._volumes.capture.volume_capture import VolumeCapture
