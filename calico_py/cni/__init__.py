"""The pod's side: the static shim, the wire format, the server and its verbs, the installer.

Addresses come from ipam, interfaces from the PodWiring that agent hands in.
"""
