"""Deletion of an IPAM object in Calico's two steps: marked with ``deleted: true``, then removed.

Both steps are conditional. A writer that dies in between leaves an object that every reader takes for absent, and that
whoever wants its name removes.
"""

from dataclasses import replace
from typing import TypeVar

from calico_py.model.blocks import BlockAffinity, IPAMBlock
from calico_py.model.store import Kind, NotFoundError, Store

Deletable = TypeVar("Deletable", IPAMBlock, BlockAffinity)


async def delete_marked(store: Store, kind: Kind[Deletable], obj: Deletable) -> None:
    """Delete the object if it is still as given; gone already is success.

    Raises:
        ConflictError: it changed since it was read, and stands.
    """
    try:
        if not obj.deleted:
            obj = await store.update(kind, replace(obj, deleted=True))
        await store.delete(kind, obj.meta.name, uid=obj.meta.uid, resource_version=obj.meta.resource_version)
    except NotFoundError:
        return
