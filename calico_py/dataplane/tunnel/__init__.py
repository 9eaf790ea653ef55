"""Userspace encapsulation: a TUN device on one side, raw IP or UDP sockets on the other.

A process of its own (`calico-py tunnel`) that reads the kernel's routes and nothing else.
"""
