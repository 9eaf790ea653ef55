"""The brain: ClusterState and LearnedRoutes in, Intent out. Pure: no clock, no I/O, no history."""
