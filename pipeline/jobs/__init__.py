"""Jobs for the command, the gateway and drops: submit, status, cancel, fetch, retry, and why one waits or failed."""
