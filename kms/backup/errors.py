"""What can go wrong with a backup; messages say what is wrong, where, and what to do.

BackupError
├── ForeignFileError      no backup, or one of another format version
├── OtherBackupError      not the file that was meant
├── DamagedBackupError    truncated, changed, reordered, or not what its own manifest says
├── SharesError           too few shares, a wrong or mistyped one, shares of another key
├── RecoveryKeyError      a recovery key that cannot be used, or none
└── RestoreRefusedError   restoring would overwrite something, or hide a loss
"""


class BackupError(Exception):
    """Root of all errors of backups."""


class ForeignFileError(BackupError):
    """The file is no backup of this service, or of a format that this program does not read."""


class OtherBackupError(BackupError):
    """The file is not the one whose digest was given; nothing of it is used."""


class DamagedBackupError(BackupError):
    """The backup is incomplete or was changed; nothing of it is used."""


class SharesError(BackupError):
    """The shares given do not open the backup; the message names the one that is wrong."""


class RecoveryKeyError(BackupError):
    """A recovery key that cannot be used, or none."""


class RestoreRefusedError(BackupError):
    """Restoring would overwrite something, or hide a loss; nothing was changed."""
