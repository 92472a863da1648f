"""What runs beside the jobs in the cluster: exit handler, reconciler, checkpoint sidecar, intake of drops."""
