"""Userspace encapsulation: a TUN device on one side, raw IP or UDP sockets on the other.

A process of its own (`calico-py tunnel`) that reads the kernel's devices and routes and nothing else: no API
server, no agent, no file. Pure: packets, lookup, alias. System calls: rtnl, tun, framing, engine.
"""
