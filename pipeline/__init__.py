"""How work is arranged: the command line, the runs on one machine, and later the cluster. What is heavy runs as a step."""
