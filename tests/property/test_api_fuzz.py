"""Whatever a client sends, the embedded API refuses with a Status or takes it whole, and keeps what it promises."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from calico_py.lab.api.definitions import shipped
from calico_py.lab.api.errors import ApiError, Object
from calico_py.lab.api.lifecycle import Cluster
from calico_py.lab.api.negotiation import parse_body
from calico_py.lab.api.patches import merged, operated
from calico_py.lab.api.resources import Resource
from calico_py.lab.api.selection import Selection
from calico_py.lab.api.storage import Storage
from calico_py.lab.api.strategic import strategically_merged
from calico_py.lab.api.verbs import Options

(POOL_CRD,) = (crd for crd in shipped() if crd["spec"]["names"]["kind"] == "IPPool")

# Names that mean something somewhere, so that nonsense gets deep into the code.
NAMES = st.sampled_from(
    ["metadata", "spec", "status", "name", "labels", "annotations", "finalizers", "managedFields", "resourceVersion",
     "uid", "generateName", "ownerReferences", "cidr", "blockSize", "ipipMode", "allowedUses", "conditions", "type",
     "namespace", "x", "deletionTimestamp"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-2, 200) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.sampled_from(["", "p1", "10.0.0.0/16", "fd00::/64", "Always", "Never", "1", "UPPER", "é", "a/b", "Workload"])
JSON = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
TEXT_MAPS = st.dictionaries(TEXTS, TEXTS, max_size=2)
# Each part is right more often than not, so that requests succeed often enough to build on each other.
META_PARTS = {
    "labels": TEXT_MAPS | TEXT_MAPS | JSON,
    "annotations": TEXT_MAPS | TEXT_MAPS | JSON,
    "finalizers": st.lists(TEXTS, max_size=2) | JSON,
    "ownerReferences": st.lists(JSON, max_size=2),
    "managedFields": st.lists(JSON, max_size=2),
    "resourceVersion": TEXTS | JSON,
    "uid": TEXTS | JSON,
    "deletionTimestamp": TEXTS | JSON,
    "x": JSON,
}
MODES = st.sampled_from(["Never", "Always", "CrossSubnet"])
SPEC_PARTS = {
    "ipipMode": MODES | MODES | JSON,
    "vxlanMode": MODES | JSON,
    "blockSize": st.sampled_from([26, 26, 20, 19, 122]) | JSON,
    "allowedUses": st.lists(st.sampled_from(["Workload", "Tunnel", "LoadBalancer", "x"]), max_size=3) | JSON,
    "natOutgoing": st.booleans() | JSON,
    "disabled": st.booleans() | st.none(),
}
CIDRS = st.sampled_from(["10.0.0.0/16"] * 4 + ["fd00::/64", "10.0.0.1/16", "x"])


def some(parts: dict[str, st.SearchStrategy[Any]], **required: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Up to two of the parts, so that one wrong part does not hide all the others."""
    chosen = st.lists(st.sampled_from(sorted(parts)), max_size=2, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries(required | {name: parts[name] for name in names}))


STATUS = st.fixed_dictionaries({"conditions": st.lists(st.dictionaries(NAMES, TEXTS, max_size=3), max_size=2) | JSON})
OBJECTS = st.fixed_dictionaries(
    {"metadata": some(META_PARTS, name=st.just("p1")), "spec": some(SPEC_PARTS, cidr=CIDRS)},
    optional={"status": STATUS},
)
NONSENSE = st.dictionaries(st.sampled_from(["metadata", "spec", "status", "x"]), JSON, max_size=3)
PATCHES = st.fixed_dictionaries({}, optional={"metadata": some(META_PARTS), "spec": some(SPEC_PARTS), "status": STATUS})
OPERATIONS = st.lists(
    st.fixed_dictionaries(
        {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"])},
        optional={
            "path": st.sampled_from(
                ["", "/spec", "/spec/cidr", "/metadata/labels", "/metadata/name", "/x/0", "/spec/-"]
            ),
            "from": st.sampled_from(["/spec", "/metadata", "/nothing"]),
            "value": JSON,
        },
    ),
    max_size=3,
)


def refusal(request: Callable[[], Any]) -> tuple[int | None, Any]:
    """The status with which a request was refused, or None and its answer; any other exception is a bug."""
    try:
        return None, request()
    except ApiError as error:
        return error.code, None


def pool_of(cluster: Cluster) -> Resource:
    """The kind IPPool."""
    found = cluster.registry.get("projectcalico.org", "v3", "ippools")
    assert found is not None
    return found


class Api(RuleBasedStateMachine):
    """Requests in any order; what is stored always fits its schema, and the watch always tells what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(Storage())
        self.cluster.define(POOL_CRD)
        self.pool = pool_of(self.cluster)
        self.seen: dict[str, Object] = {}
        self.since = self.cluster.verbs.storage.version
        self.create_well()

    def _kinded(self, obj: Any) -> Any:
        return {"apiVersion": "projectcalico.org/v3", "kind": "IPPool"} | obj

    @rule(obj=OBJECTS | NONSENSE, strict=st.booleans())
    def create(self, obj: Any, *, strict: bool) -> None:
        options = Options(validation="Strict" if strict else "Warn", manager="one")
        self._try(lambda: self.cluster.verbs.create(self.pool, "", self._kinded(obj), options))

    @rule()
    def create_well(self) -> None:
        obj = self._kinded({"metadata": {"name": "p1"}, "spec": {"cidr": "10.0.0.0/16"}})
        self._try(lambda: self.cluster.verbs.create(self.pool, "", obj, Options(manager="one")))

    @rule(obj=OBJECTS | NONSENSE, current=st.booleans())
    def update(self, obj: Any, *, current: bool) -> None:
        stored = self.cluster.verbs.storage.get(self.pool.key, "", "p1")
        if current and stored and isinstance(obj.get("metadata"), dict):
            obj = obj | {"metadata": obj["metadata"] | {"resourceVersion": stored["metadata"]["resourceVersion"]}}
        self._try(lambda: self.cluster.verbs.update(self.pool, "", "p1", self._kinded(obj), Options(manager="one")))

    @rule(patch=PATCHES | NONSENSE, status=st.booleans(), strategic=st.booleans())
    def merge(self, patch: Any, *, status: bool, strategic: bool) -> None:
        options = Options(manager="two", subresource="status" if status else "")
        merge = strategically_merged if strategic else merged
        self._try(lambda: self.cluster.verbs.patch(self.pool, "", "p1", lambda obj: merge(obj, patch), options))

    @rule(operations=OPERATIONS)
    def operate(self, operations: Any) -> None:
        options = Options(manager="one")
        self._try(lambda: self.cluster.verbs.patch(self.pool, "", "p1", lambda obj: operated(obj, operations), options))

    @rule(obj=OBJECTS | NONSENSE, force=st.booleans(), manager=st.sampled_from(["kubectl", "two"]))
    def apply(self, obj: Any, manager: str, *, force: bool) -> None:
        options = Options(manager=manager)
        self._try(lambda: self.cluster.verbs.apply(self.pool, "", "p1", self._kinded(obj), options, force=force)[0])

    @rule(really=st.sampled_from([False, False, True]))
    def delete(self, *, really: bool) -> None:
        self._try(lambda: self.cluster.verbs.delete(self.pool, "", "p1", uid="" if really else "another"))

    def _try(self, request: Callable[[], Any]) -> None:
        before = json.dumps(self._stored())
        code, answer = refusal(request)
        if code is None:
            json.dumps(answer)
        else:
            assert 400 <= code < 500
            assert json.dumps(self._stored()) == before, "a refused request changed something"

    def _stored(self) -> list[Object]:
        return list(self.cluster.verbs.list(self.pool, Selection()))

    @invariant()
    def what_is_stored_is_valid(self) -> None:
        for obj in self._stored():
            assert self.pool.schema.validate(obj) == []
            assert self.pool.schema.break_rules(None, obj) == []

    @invariant()
    def the_watch_tells_what_is_there(self) -> None:
        events, self.since = self.cluster.verbs.changes(self.pool, Selection(), self.since)
        for event in events:
            name = event.object["metadata"]["name"]
            assert (event.type == "ADDED") == (name not in self.seen)
            if event.type == "DELETED":
                del self.seen[name]
            else:
                self.seen[name] = event.object
        assert self.seen == {obj["metadata"]["name"]: obj for obj in self._stored()}


TestApi = Api.TestCase
TestApi.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@given(
    st.binary(max_size=60),
    st.sampled_from(["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", ""]),
)
def test_any_body_is_read_or_refused(body: bytes, media: str) -> None:
    assert refusal(lambda: parse_body(body, media))[0] in (None, 400, 415)


@given(st.binary(max_size=60).map(lambda tail: b"k8s\x00" + tail))
def test_any_protobuf_is_read_or_refused(body: bytes) -> None:
    assert refusal(lambda: parse_body(body, "application/vnd.kubernetes.protobuf"))[0] in (None, 400)
