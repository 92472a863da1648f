"""Runs a job on this machine, without a cluster."""
