"""calico-py: a Calico-compatible routing agent for Kubernetes."""
