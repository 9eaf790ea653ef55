"""A whole cluster on one machine: nodes as namespaces, the embedded API server, the demo.

Drives the product as a cluster would, by processes, files and the API; does not import the agent.
"""
