"""Decisions on an engine's JSON: how a container is recreated, what differs, what depends on what. Pure."""

from docker_rollback._inspection.addresses import asked_as_captured, with_asked, with_asked_macs
from docker_rollback._inspection.bare_request import quiet_request
from docker_rollback._inspection.compare import Difference, compare, compare_across, compare_networks, is_same_network
from docker_rollback._inspection.conflicts import common_subnet, conflict
from docker_rollback._inspection.dependencies import (
    COMPOSE_PROJECT,
    StartOrder,
    bound_to,
    hash_gap,
    is_one_off,
    needs_name,
    partners,
    shared_namespaces,
    start_order,
    starts_once_healthy,
    with_ids,
)
from docker_rollback._inspection.host_folders import (
    DRIVER,
    called,
    could_make,
    engine_spot,
    gap_of,
    holds,
    inspection_of,
    is_straight,
    uses,
    why_never,
    why_not_there,
)
from docker_rollback._inspection.image_origin import Origin, origin_of
from docker_rollback._inspection.podman.loss import PROCESSES, PROCESSES_NOTE, Loss, loss_of, requires
from docker_rollback._inspection.preflight_report import Report
from docker_rollback._inspection.recreate import (
    HELD,
    CreateRequest,
    attached_networks,
    create_request,
    is_generated_name,
    is_plain_network,
    is_same_start,
    layers_of,
    made_for_mounts,
    moment_of,
    mount_places,
    mounts,
    network_request,
    observe,
    own_network,
    primary_network,
    refers,
    restart_count,
    restart_policy,
    restarts,
    shares_network,
    started_at,
    user_endpoints,
    volume_request,
)
from docker_rollback._inspection.redact import hide
from docker_rollback._inspection.successor import ChangeArguments, Changes, equal_request, update_request
