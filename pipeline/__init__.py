"""Orchestration: command line, local runs, Argo workflows, HTTP API and in-cluster services. Computation runs in steps."""
