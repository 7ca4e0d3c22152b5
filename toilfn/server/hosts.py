"""Names and addresses of hosts in URLs and headers."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["host_of", "is_loopback"]


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is that of this machine itself."""
    return host in ("localhost", "::1", "ip6-localhost") or host.startswith("127.") or host.endswith(".localhost")


def host_of(header: str) -> str:
    """Return the host in a header such as ``Host``, without its port; empty if it is not valid."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
