"""The lab's own few requests to the API server, as a kubelet and an administrator would send them. Standard library.

The product's client is kube's; the lab looks at the product from outside.
"""

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from calico_py.lab.commands import LabError

MERGE_PATCH = "application/merge-patch+json"

_TIMEOUT = 10.0  # seconds, of a request
_READY_TIMEOUT = 1.0  # seconds; a socket that nobody serves yet accepts and says nothing
_WATCH_TIMEOUT = 30.0  # seconds of silence after which a watch begins anew


class ApiError(LabError):
    """The server refused, or could not be reached (status 0)."""

    def __init__(self, what: str, status: int, message: str) -> None:
        super().__init__(f"{what}: {message}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Api:
    """An API server.

    Attributes:
        server: ``http://ADDRESS:PORT`` or https. ca: path of the file with its certificate authority.
    """

    server: str
    token: str = ""
    ca: str = ""

    def get(self, path: str) -> Any:
        """An object or a list."""
        return self.request("GET", path)

    def is_ready(self) -> bool:
        """Whether the server says that it is ready; False also while it is not there."""
        try:
            with self._open("GET", "/readyz", None, "", _READY_TIMEOUT):
                return True
        except ApiError:
            return False

    def list(self, path: str) -> list[dict[str, Any]]:
        """The items of a collection."""
        items: list[dict[str, Any]] = self.get(path).get("items") or []
        return items

    def create(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post an object to its collection; the one that is there, if the name is taken."""
        try:
            return self.request("POST", path, body)
        except ApiError as error:
            if error.status != http.client.CONFLICT:
                raise
            return self.get(f"{path}/{body['metadata']['name']}")

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Merge patch (RFC 7386)."""
        return self.request("PATCH", path, body, MERGE_PATCH)

    def delete(self, path: str) -> None:
        """Delete an object; gone already is success."""
        try:
            self.request("DELETE", path)
        except ApiError as error:
            if error.status != http.client.NOT_FOUND:
                raise

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, content_type: str = "application/json"
    ) -> Any:
        """One request, its JSON answer.

        Raises:
            ApiError: the server refused, does not answer or is not there.
        """
        with self._open(method, path, body, content_type, _TIMEOUT) as response:
            return json.loads(response.read())

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        """Events of a collection from its present state on, until the server ends the watch or is silent for long."""
        lost = contextlib.suppress(OSError, http.client.HTTPException)
        with self._open("GET", f"{path}?watch=true", None, "", _WATCH_TIMEOUT) as response, lost:
            while line := response.readline():
                yield json.loads(line)

    @contextlib.contextmanager
    def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None, content_type: str, timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        what = f"{method} {self.server}{path}"
        headers = {"Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = content_type
        connection: http.client.HTTPConnection | None = None
        try:
            connection = self._connect(timeout)
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            if response.status >= http.client.BAD_REQUEST:
                raise ApiError(what, response.status, _message(response))
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(what, 0, f"{error}; is the API server running? see: calico-py lab status") from None
        finally:
            if connection:
                connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        url = urlsplit(self.server)
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=self.ca or None)
            return http.client.HTTPSConnection(url.hostname or "", url.port, timeout=timeout, context=context)
        return http.client.HTTPConnection(url.hostname or "", url.port, timeout=timeout)


def read_kubeconfig(path: Path) -> Api:
    """The server of a kubeconfig of a lab.

    Raises:
        LabError: there is no such file.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise LabError(f"{path}: not found; is the lab up? see: calico-py lab status") from None
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    return Api(cluster["server"], user.get("token", ""), cluster.get("certificate-authority", ""))


def _message(response: http.client.HTTPResponse) -> str:
    """The message of a Status object, or whatever else the server said."""
    text = response.read().decode(errors="replace")
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status} {response.reason}: {text[:200]}"
