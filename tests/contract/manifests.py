"""Objects that the contract suite works with."""

from typing import Any


def pool(name: str = "p1", **spec: Any) -> dict[str, Any]:
    """An IPPool."""
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": name},
        "spec": {"cidr": "10.244.0.0/16"} | spec,
    }


def configmap(name: str, data: dict[str, str], **metadata: Any) -> dict[str, Any]:
    """A ConfigMap in the namespace default."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name} | metadata, "data": data}


def node(name: str, **metadata: Any) -> dict[str, Any]:
    """A Node."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name} | metadata}


GADGETS = "/apis/contract.example.org/v1/namespaces/default/gadgets"

GADGET_CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "gadgets.contract.example.org"},
    "spec": {
        "group": "contract.example.org",
        "scope": "Namespaced",
        "names": {"kind": "Gadget", "plural": "gadgets", "singular": "gadget", "shortNames": ["gd"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.colour"}],
                "additionalPrinterColumns": [
                    {"name": "Colour", "type": "string", "jsonPath": ".spec.colour"},
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
                    {"name": "Parts", "type": "string", "jsonPath": ".spec.parts", "priority": 1},
                ],
                "schema": {
                    "openAPIV3Schema": {
                        "description": "A thing that only the contract suite knows.",
                        "type": "object",
                        "required": ["spec"],
                        "properties": {
                            "spec": {
                                "description": "What the gadget should be.",
                                "type": "object",
                                "required": ["size"],
                                "properties": {
                                    "colour": {
                                        "description": "How it looks.",
                                        "type": "string",
                                        "enum": ["red", "green"],
                                        "default": "red",
                                    },
                                    "size": {"type": "integer", "minimum": 1},
                                    "port": {"x-kubernetes-int-or-string": True},
                                    "parts": {
                                        "type": "array",
                                        "maxItems": 3,
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["name"],
                                        "items": {
                                            "type": "object",
                                            "required": ["name"],
                                            "properties": {"name": {"type": "string"}, "weight": {"type": "integer"}},
                                        },
                                    },
                                    "notes": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                },
                                "x-kubernetes-validations": [
                                    {"rule": "self.size < 100", "message": "size is too large", "fieldPath": ".size"}
                                ],
                            },
                            "status": {
                                "type": "object",
                                "properties": {
                                    "conditions": {
                                        "type": "array",
                                        "items": {
                                            "type": "object",
                                            "properties": {"type": {"type": "string"}, "status": {"type": "string"}},
                                        },
                                    }
                                },
                            },
                        },
                    }
                },
            }
        ],
    },
}


def gadget(name: str = "g1", **spec: Any) -> dict[str, Any]:
    """An object of the unknown kind."""
    return {
        "apiVersion": "contract.example.org/v1",
        "kind": "Gadget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"size": 3} | spec,
    }
