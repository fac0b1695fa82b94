"""The values that make up a backup. They are frozen, and do no I/O."""

from docker_rollback._model.backup import (
    SINGLE_FILE,
    Backup,
    Clock,
    ContainerSnapshot,
    ContainerState,
    Descriptor,
    Detached,
    EngineRecord,
    HostFile,
    ImageSnapshot,
    LedBack,
    Mount,
    NetworkRecord,
    NotCovered,
    Observed,
    Project,
    Quiesce,
    Resting,
    Shared,
    VolumeArchive,
    Way,
    backup_id,
    is_file,
    is_folder,
    left_out,
)
from docker_rollback._model.exclude import (
    NONE,
    Exclude,
    ExcludeArgument,
    MountPoint,
    Paths,
    as_excludes,
    for_find,
    for_tar,
    itself_for_tar,
    paths_within,
)
from docker_rollback._model.privileges import privileges
from docker_rollback._model.recovered import InFlight, Owner, RecordPlace, Recovered
