"""The file by which kubectl and every other client find an API server."""

from pathlib import Path

import yaml


def write_kubeconfig(path: Path, url: str, *, token: str = "", authority: Path | None = None) -> Path:
    """Write a kubeconfig with one cluster, one user and one context, all called ``lab``; readable by its owner alone.

    Args:
        path: file to write; replaced where it exists.
        url: address of the server, such as ``http://127.0.0.1:6443``.
        token: bearer token; empty for a server that asks for none.
        authority: certificates that the server's is checked against; None for http.
    """
    cluster = {"server": url} | ({"certificate-authority": str(authority)} if authority else {})
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "lab", "user": {"token": token} if token else {}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path
