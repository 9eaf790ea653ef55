"""deploy/Dockerfile and deploy/image.py are one recipe, in two languages."""

import json
import re
from pathlib import Path

import pytest

from deploy import image

DOCKERFILE = Path(image.__file__).with_name("Dockerfile")


@pytest.fixture
def stages() -> list[str]:
    """The Dockerfile's stages, with lines joined that go on."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]


def test_both_have_the_same_debian_and_packages(stages: list[str]) -> None:
    for stage in stages:
        assert stage.startswith(f"FROM debian:{image.SUITE}-slim")
    (packages,) = re.findall(r"install -y --no-install-recommends ([\w .-]+?) +&&", stages[-1])
    assert sorted(packages.split()) == sorted(image.PACKAGES)


def test_both_have_the_same_settings(stages: list[str]) -> None:
    (variables,) = re.findall(r"^ENV (.*)$", stages[-1], flags=re.MULTILINE)
    assert variables.split() == list(image.SETTINGS["Env"])
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", stages[-1], flags=re.MULTILINE)
    assert json.loads(entry) == image.SETTINGS["Entrypoint"]


def test_both_have_the_same_executables_in_the_same_place(stages: list[str]) -> None:
    (machines,) = re.findall(r"for machine in ([\w ]+);", stages[0])
    assert sorted(machines.split()) == sorted(image.SHIM_TARGETS)
    assert {f"{machine}-linux-musl" for machine in machines.split()} == set(image.SHIM_TARGETS.values())
    assert f"/{image.HOME}/shim/$machine" in stages[0]
    assert f"COPY --from=build /{image.HOME} /{image.HOME}" in stages[-1]
