"""The patch formats of the API: JSON merge patch (RFC 7386) and JSON patch (RFC 6902). Pure.

Strategic merge, for the core kinds alone, is in strategic.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from calico_py.lab.api.errors import ApiError, Object, bad_request


def merged(target: Any, patch: Any) -> Any:
    """The target with a merge patch applied; neither is changed."""
    if not isinstance(patch, Mapping):
        return patch
    out = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            out.pop(name, None)
        else:
            out[name] = merged(out.get(name), value)
    return out


def _unprocessable(message: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {message}")


def _steps(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise bad_request(f"no JSON pointer (RFC 6901): {pointer!r}")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _index(container: Sequence[Any], step: str, *, end: bool) -> int:
    """The position that a step names; ``end``: one past the last is one too."""
    if step == "-" and end:
        return len(container)
    if not step.isdigit() or int(step) >= len(container) + end:
        raise _unprocessable(f"array index {step} is out of bounds or no number")
    return int(step)


def _member(container: Any, step: str, pointer: str) -> Any:
    if isinstance(container, list):
        return container[_index(container, step, end=False)]
    if isinstance(container, dict) and step in container:
        return container[step]
    raise _unprocessable(f"path {pointer} does not exist")


def _add(container: Any, step: str, value: Any, pointer: str) -> None:
    if isinstance(container, list):
        container.insert(_index(container, step, end=True), value)
    elif isinstance(container, dict):
        container[step] = value
    else:
        raise _unprocessable(f"path {pointer} does not exist")


def _remove(container: Any, step: str, pointer: str) -> Any:
    value = _member(container, step, pointer)
    del container[int(step) if isinstance(container, list) else step]
    return value


def _resolve(root: Any, steps: Sequence[str], pointer: str) -> Any:
    for step in steps:
        root = _member(root, step, pointer)
    return root


def _apply(holder: dict[str, Any], operation: Mapping[str, Any]) -> None:
    """One operation on the document that the holder has under an empty name, so that the root is a member too."""
    op, pointer = operation.get("op"), operation.get("path")
    if not isinstance(pointer, str):
        raise bad_request(f"a JSON patch operation wants a path: {json.dumps(operation)}")
    *parents, last = ["", *_steps(pointer)]
    container = _resolve(holder, parents, pointer)
    if op == "add":
        _add(container, last, operation.get("value"), pointer)
    elif op == "replace":
        _remove(container, last, pointer)
        _add(container, last, operation.get("value"), pointer)
    elif op == "remove":
        _remove(container, last, pointer)
    elif op in ("move", "copy"):
        source = str(operation.get("from"))
        *above, name = ["", *_steps(source)]
        origin = _resolve(holder, above, source)
        value = _remove(origin, name, source) if op == "move" else _member(origin, name, source)
        _add(_resolve(holder, parents, pointer), last, json.loads(json.dumps(value)), pointer)
    elif op == "test":
        if _member(container, last, pointer) != operation.get("value"):
            raise _unprocessable(f"testing value {pointer} failed")
    else:
        raise bad_request(f"unknown JSON patch operation: {op!r}")


def operated(target: Object, operations: Any) -> Object:
    """The target with a JSON patch applied; the target is changed, so give a copy.

    Raises:
        ApiError: 422 for a path that is not there or a test that fails, 400 for what is no JSON patch.
    """
    if not isinstance(operations, list) or not all(isinstance(each, dict) for each in operations):
        raise bad_request("a JSON patch is an array of operations")
    holder: dict[str, Any] = {"": target}
    for operation in operations:
        _apply(holder, operation)
    found: Object | None = holder.get("")
    if not isinstance(found, dict):
        raise bad_request("the patched object is no object any more")
    return found
