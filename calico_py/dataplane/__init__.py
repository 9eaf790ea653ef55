"""The hands: plan (pure), delta, one reconciler per kind of kernel object, pod wiring, the netlink adapter.

The only room that imports pyroute2 or runs nft. Decides nothing about a cluster: it makes the kernel look
like an Intent.
"""
