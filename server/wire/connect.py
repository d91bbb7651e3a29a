"""The address of a server, the token and the HTTP client for it: one rule for the commands, the supervisor, the demo
and agents.

Not re-exported by `server.wire`, whose types need pydantic only; this module needs httpx.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import httpx

SCHEMES = ("http", "https")


class AddressError(ValueError):
    """No client can be made for an address or with the proxies of the environment; the message says what to change."""


def http_client(url: str, *, timeout_seconds: float, headers: Mapping[str, str] | None = None) -> httpx.Client:
    """A client for the server at `url`, to be closed by the caller.

    The proxies of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) apply to every address but
    those of this machine: a proxy cannot reach its loopback interface. Raises AddressError.
    """
    host = check_url(url)
    try:
        return httpx.Client(
            base_url=url,
            headers=headers,
            timeout=timeout_seconds,
            trust_env=not is_local(host),
            verify=_certificates(),
        )
    except ImportError as error:
        raise AddressError(
            f"the environment names a SOCKS proxy for {host}, which needs another package: "
            "pip install 'httpx[socks]', or name the host in NO_PROXY"
        ) from error
    except (ValueError, httpx.InvalidURL) as error:
        raise AddressError(
            f"the proxies of the environment cannot be used ({error}): correct HTTP_PROXY, HTTPS_PROXY, ALL_PROXY "
            "or NO_PROXY"
        ) from error


def _certificates() -> ssl.SSLContext:
    """Those that the environment names; without `trust_env`, httpx would ignore them. Raises AddressError."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # `ssl.SSLError` is one
        raise AddressError(
            f"the certificates of the environment cannot be read ({error}): correct or unset SSL_CERT_FILE and "
            "SSL_CERT_DIR"
        ) from error


def check_url(url: str) -> str:
    """The host that a server's URL names, without brackets. Raises AddressError."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        host = None
    # An IPv6 address without brackets leaves an empty host or a second colon.
    if not host or parts.scheme not in SCHEMES or _has_bare_ipv6(parts.netloc):
        raise AddressError(
            f"'{_without_password(url)}' is not the URL of a server: give http://HOST:PORT or https://HOST, "
            "with an IPv6 address in brackets"
        )
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise AddressError(f"'{_without_password(url)}' is not the URL of a server ({error})") from error
    return host


def checked_token(text: str) -> str | None:
    """The token that a variable or a file holds, without the line end that copying or an editor left behind it; None
    if it holds anything else."""
    token = text.strip()
    return token if token and token.isascii() and token.isprintable() and " " not in token else None


def base_url(host: str, port: int) -> str:
    """The URL at which this machine reaches a server that listens on `host`; of a wildcard address, the loopback."""
    address = _address(host)
    if address is not None and address.is_unspecified:
        host = "::1" if isinstance(address, IPv6Address) else "127.0.0.1"
    return f"http://{bracketed(host)}:{port}"


def is_host(host: str) -> bool:
    """Whether text is the name or the address of a machine: no URL, and without a port."""
    if _address(host) is not None:
        return True
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname == host.lower() and parts.port is None and not re.search(r"\s", host)
    except ValueError:
        return False


def bracketed(host: str) -> str:
    """The host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def is_local(host: str) -> bool:
    """Whether a host is this machine: `localhost`, 127.0.0.0/8, ::1, a wildcard address, its own name or an address
    of one of its interfaces.

    Names are not resolved: behind a proxy, often only the proxy can resolve them.
    """
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name == socket.gethostname().lower():
        return True
    address = _address(name)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and (address.is_loopback or address.is_unspecified or _is_own(address))


def _is_own(address: IPv4Address | IPv6Address) -> bool:
    """Whether an interface of this machine has the address: only then can a socket be bound to it."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host stands for, None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))  # short forms, such as 127.1
    except (OSError, UnicodeError):
        return None


def _has_bare_ipv6(netloc: str) -> bool:
    host_and_port = netloc.rpartition("@")[2]
    return not host_and_port.startswith("[") and host_and_port.count(":") > 1


def _without_password(url: str) -> str:
    """A URL as it may be shown: what stands before an @ may be a secret."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
