"""Programs that run in the cluster beside the steps: exit handler, reconciler, checkpoint sidecar, intake of drops."""
