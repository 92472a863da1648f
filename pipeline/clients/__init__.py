"""Clients of S3, of the Kubernetes API server and of the Argo Server, and parsers of their responses."""
