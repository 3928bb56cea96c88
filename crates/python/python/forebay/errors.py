"""One exception a kind of error. Each has a `hint`: the next thing to try, or None."""


class Error(Exception):
    """Any error of Forebay."""

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self):
        # Between processes, from a worker of a DataLoader for one.
        return type(self), (self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class ConfigError(Error, ValueError):
    """Options that cannot be, or that do not go with the dataset."""


class NotADatasetError(Error, ValueError):
    """A path that holds no dataset, or one without what is needed."""


class InputError(Error, ValueError):
    """Raw input that cannot be read as documents."""


class VersionError(Error, ValueError):
    """A dataset or state that a later version wrote."""


class CorruptError(Error):
    """Files that are not as they were written."""


class DeviceError(Error, RuntimeError):
    """A GPU that is not there, or that refuses."""


class StateError(Error, ValueError):
    """A state of another dataset or order."""


class StorageError(Error, OSError):
    """Storage that refuses. (`errno` is not set: `message` says what and where.)"""


class Interrupted(Error):
    """A run that was stopped; called again, it resumes."""
