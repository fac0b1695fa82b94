"""Takes a backup: checks, hooks, capture, guards."""

from docker_rollback._capture.capture import Capture
from docker_rollback._capture.guards import guards_of, remove_guards
from docker_rollback._capture.hooks import Call, Exec, HookArgument, Hooks
from docker_rollback._capture.options import CaptureOptions, FilesArgument, VolumeOptions
from docker_rollback._capture.preflight import Preflight
from docker_rollback._capture.project_files import check_unchanged
