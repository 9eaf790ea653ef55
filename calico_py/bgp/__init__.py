"""BGP: the RIB and the decision process (pure); ExaBGP's configuration and API lines (pure); bridge and speaker.

ExaBGP is a process, never imported. It neither selects paths nor writes the kernel: that is done here and in dataplane.
"""
