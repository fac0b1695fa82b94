"""Finds, snapshots, quiesces and resumes the containers of an engine."""

from docker_rollback._containers.bound_paths import BoundPaths, asked_by_binds, can_be_made
from docker_rollback._containers.compose import Added, added_since, beyond, find_project, members, require_members
from docker_rollback._containers.creation import body_for, forgets_connected_macs, join, needs_network_of_mode
from docker_rollback._containers.find import (
    find_container,
    find_containers,
    find_image,
    find_listed,
    find_network,
    find_volume,
    users_of,
)
from docker_rollback._containers.image_depth import uncommittable
from docker_rollback._containers.images import (
    create_on,
    earlier_name,
    find_origin,
    image_id_of,
    is_ours,
    name_of,
    origin_in,
    provide_image,
    shown_image,
    take_name,
)
from docker_rollback._containers.locking import PROJECT_MARK, locked, project_key
from docker_rollback._containers.own_container import NO_TRACES, Own, Traces, own_container
from docker_rollback._containers.process_watch import main_processes
from docker_rollback._containers.quiesce import (
    QuiescedContainers,
    ensure_running,
    find_each,
    quiesced_container,
    with_runs,
)
from docker_rollback._containers.read_only_volumes import uncopied
from docker_rollback._containers.readiness import await_needed
from docker_rollback._containers.running import all_run, end_lost_run, ensure_state, in_rounds, is_lost, settled
from docker_rollback._containers.snapshotter import ContainerSnapshotter, native_loss
from docker_rollback._containers.store_identity import BOOT_LABEL, FOLDER_LABEL, HOST_LABEL, StoreIdentity
from docker_rollback._containers.surviving import doubtful_paths, lost_partners, lost_path, mountinfo_of
from docker_rollback._containers.undisturbed import (
    DataWatch,
    DisturbedCaptureError,
    DisturbedError,
    capture_until_undisturbed,
    disturbed,
    put_back_until_undisturbed,
)
from docker_rollback._containers.unkept_names import unkept_names
