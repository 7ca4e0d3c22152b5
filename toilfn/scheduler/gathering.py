"""How long ready tasks wait for others to go out with."""

from __future__ import annotations

__all__ = ["Gathering"]


class Gathering:
    """Lets ready tasks gather for a short time, so that many go out in one submission.

    Parameters
    ----------
    seconds : float
        From when there is something to start until all that is ready by then is started.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    @property
    def over_at(self) -> float | None:
        """The time at which `is_over` is to be asked again; None if nothing waits."""
        return None if self._since is None else self._since + self._seconds

    def is_over(self, now: float) -> bool:
        """Return whether what is ready may be started; asked whenever there is anything."""
        if not self._seconds:
            return True
        if self._since is None:
            self._since = now
        if now < self._since + self._seconds:
            return False
        self._since = None
        return True
