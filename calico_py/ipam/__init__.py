"""Pod addresses: block arithmetic (pure), the compare-and-swap allocator, garbage-collection rules (pure).

Talks to the API only through the Store protocol. Knows nothing of kernels, routes or CNI.
"""
