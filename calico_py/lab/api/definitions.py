"""CustomResourceDefinitions: the files that come with calico-py, and what defining a kind does to a registry."""

from collections.abc import Iterator
from importlib import resources

import yaml

from calico_py.lab.api.errors import Object


def shipped() -> Iterator[Object]:
    """The CRDs in calico_py/crds, as objects."""
    for file in sorted(resources.files("calico_py").joinpath("crds").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml") and file.name != "kustomization.yaml":
            yield from yaml.load_all(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
