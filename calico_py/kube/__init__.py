"""The API server's side: transport, reflector, typed store with conflicts, lease, events.

The only room that imports kubernetes. Knows no routes and no kernel.
"""
