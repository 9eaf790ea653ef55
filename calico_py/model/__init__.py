"""What a cluster is: frozen dataclasses, the names and labels of the field, the codec from and to Kubernetes.

Also here: the four seams (Store, Kernel, PodWiring, Speaker) as Protocols in these terms.
No I/O, no clock, no import from any other room.
"""
