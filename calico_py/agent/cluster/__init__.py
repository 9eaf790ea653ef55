"""The work that concerns the whole cluster, most of it the leader's, and the Events of what a person must mend."""
