"""The embedded Kubernetes API server: storage, verbs and the HTTP that kubectl and the agent speak.

Everything about a kind comes from its CRD or, for the few core kinds, from one table. Knows no kind by name otherwise,
and nothing of nodes, networks or pods.
"""
