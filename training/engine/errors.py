"""Why a run stops early."""


class RunError(Exception):
    """A run that cannot continue, not even if it is started again. The message is one line."""


class WorkerLost(Exception):
    """Another worker has stopped answering. The message is one line."""


class DataLost(Exception):
    """The images have stopped coming; they may come again. The message is one line."""
