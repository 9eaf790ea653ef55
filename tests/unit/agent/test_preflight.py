"""A cluster with Calico's own v1 CRDs or aggregated API server is refused, with what to do."""

from collections.abc import Mapping
from typing import Any

import pytest

from calico_py.agent.preflight import ForeignCalicoError, refuse_foreign_calico
from calico_py.model.store import Kind, NotFoundError, RefusedError, StoreError, UnavailableError
from tests.fakes.store import MemoryStore


class Answers(MemoryStore):
    """Answers a get by (kind, name); an exception is raised, once where it is in a list."""

    def __init__(self, answers: Mapping[tuple[str, str], Any]) -> None:
        super().__init__()
        self._answers = answers

    async def get(self, kind: Kind[Any], name: str, *, namespace: str = "") -> Any:
        del namespace
        found = self._answers.get((kind.kind, name), NotFoundError(f"{name} is not there"))
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(found, StoreError):
            raise found
        return found


V1 = ("CustomResourceDefinition", "ippools.crd.projectcalico.org")
V3 = ("APIService", "v3.projectcalico.org")


async def test_v1_crds_are_refused() -> None:
    with pytest.raises(ForeignCalicoError, match=r"ippools\.crd\.projectcalico\.org exists.*calicoctl"):
        await refuse_foreign_calico(Answers({V1: {}}))


async def test_an_aggregated_api_server_is_refused() -> None:
    service = {"spec": {"service": {"name": "calico-api", "namespace": "calico-system"}}}
    with pytest.raises(ForeignCalicoError, match=r"APIService v3\.projectcalico\.org"):
        await refuse_foreign_calico(Answers({V3: service}))


@pytest.mark.parametrize("service", [{}, {"spec": {}}, {"spec": {"service": None}}])
async def test_the_api_service_of_our_own_crds_is_fine(service: dict[str, Any]) -> None:
    await refuse_foreign_calico(Answers({V3: service}))


async def test_nothing_there_is_fine_and_a_server_that_is_away_is_waited_for() -> None:
    away = [UnavailableError("connection refused"), NotFoundError("none")]
    await refuse_foreign_calico(Answers({V1: away}))
    await refuse_foreign_calico(Answers({V1: RefusedError("forbidden")}))
