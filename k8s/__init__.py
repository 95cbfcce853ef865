"""Boceto on a cluster: the manifests, and `boceto submit`, which applies and follows them."""
