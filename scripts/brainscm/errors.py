"""The one exception that users see: a sentence that says where, what, and what to do."""

import errno

# What the system says where the machine is to blame, and not what was to be written.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
DISK_ERRORS = (*NO_ROOM, errno.EACCES)


class BrainSCMError(Exception):
    """A problem that the user can mend. Its message is one sentence: where, what, what to do."""


class ConfigError(BrainSCMError):
    """config.yaml (or a study file) cannot be used as it stands; nothing has been started."""


class ScanError(BrainSCMError):
    """One scan cannot be used; the rest of the cohort goes on."""


def one_line(error: Exception) -> str:
    """The message of a library's error, as part of a sentence."""
    return " ".join(str(error).split())[:160]
