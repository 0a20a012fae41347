"""Why a run ends before its end."""


class RunError(Exception):
    """A run that can't go on, nor if it is started again. The message is one line."""


class WorkerLost(Exception):
    """Another worker does not answer any more. The message is one line."""
