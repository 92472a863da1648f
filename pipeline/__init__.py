"""How work is arranged: the command line, jobs on one machine and in a cluster. What is heavy runs as a step."""
