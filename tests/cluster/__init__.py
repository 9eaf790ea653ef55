"""Tests of calico-py on a whole Kubernetes cluster; a package, so that its cluster ends with the last of them."""
