"""Every error that a user can cause. A message says what is wrong, where, and what to do, in one line."""


class SurgeryError(Exception):
    """Base of all errors raised on purpose; the command line prints its message and exits with status 1."""

    exit_status = 1


class TraceError(SurgeryError):
    """The model does something that cannot be captured as a graph."""


class GuardError(SurgeryError):
    """A traced model was called with inputs that its trace does not cover."""


class AnalysisError(SurgeryError):
    """A part of a model is not understood, so that no rule can be told what it is made of."""


class MatchError(SurgeryError):
    """A rule matched nothing, or a selection names a layer that does not exist."""

    exit_status = 3


class RewriteError(SurgeryError):
    """A replacement does not fit the place where it is to go."""


class RecipeError(SurgeryError):
    """A recipe, or the command line around it, is invalid."""

    exit_status = 2


class ConfigError(SurgeryError, ValueError):
    """A part of a recipe, a pattern or an operator is given a value that it cannot have.

    Attributes:
        lines: one for each wrong value.
    """

    exit_status = 2

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[list[str]]]:
        return ConfigError, (self.lines,)  # to other processes


class ArtifactError(SurgeryError):
    """A saved artifact, checkpoint or sample store is missing, truncated, altered or of another kind."""


class TrainingError(SurgeryError):
    """Training cannot go on, for example because the loss is no longer finite."""


class WiringError(SurgeryError):
    """A pipeline feeds its transformer in a way that cannot be measured or repeated."""


class LostError(SurgeryError):
    """Another process of the run has ended, so this one cannot go on."""


class ProcessError(SurgeryError):
    """A process that was started for a run has failed.

    Attributes:
        exit_status: that of the process.
    """

    def __init__(self, message: str, exit_status: int) -> None:
        """`message` is empty where the process has said why itself."""
        super().__init__(message)
        self.exit_status = exit_status


def first_line(error: BaseException) -> str:
    """What `error` says, without the lines that follow and the stop at its end; its class if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def in_one_line(error: BaseException, longest: int = 300) -> str:
    """All that `error` says in one line, cut if it is longer; its class if it says nothing."""
    return " ".join(str(error).split())[:longest] or type(error).__name__
