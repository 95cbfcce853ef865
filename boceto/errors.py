"""Exit codes, and the errors that carry them. An error says the value, the place and the remedy in one line."""

import errno

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_SETTINGS = 2
EXIT_DATA = 65
EXIT_STOPPED = 75
# These errors of the disk, the network or the whole machine may go away: the same path may work later.
PASSING = frozenset(
    {errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ESTALE, errno.ETIMEDOUT}
)


class BocetoError(Exception):
    """A failure that is explained in one line and needs no traceback."""

    exit_code = EXIT_FAULT


class SettingsError(BocetoError):
    """Settings that cannot be carried out: exit code 2."""

    exit_code = EXIT_SETTINGS


class DataError(BocetoError):
    """Data that is corrupt, too bad or not what was expected: exit code 65."""

    exit_code = EXIT_DATA


class Stopped(BocetoError):  # noqa: N818 - it is no error
    """Stopped on request with everything saved; the same command goes on: exit code 75."""

    exit_code = EXIT_STOPPED
