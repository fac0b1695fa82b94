"""Reads facts of this machine: processes, mounts, files below a folder, clocks."""

from docker_rollback._host.clock import BOOT_ID, Timer, boot_id, now, ran_on, read_clock, was_set_back
from docker_rollback._host.files import (
    FIXED,
    LARGEST,
    UNUSABLE,
    FileState,
    check_replaceable,
    flags_of,
    machine_id,
    read_file,
    reason_of,
    replace_file,
    this_machine,
)
from docker_rollback._host.mounts import (
    Mounted,
    Spot,
    folder_of,
    is_read_only,
    lies_in,
    mounted,
    mounted_below,
    mounted_on,
    outermost,
    overlap,
    spot_of,
)
from docker_rollback._host.processes import (
    began_with,
    is_first_of_its_namespace,
    is_main_program,
    is_of_this_machine,
    may_do_anything,
    seen_by,
)
from docker_rollback._host.tree import NotAFileError, Tree, leads_to, libc
