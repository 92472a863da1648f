"""What speaks to S3 and to the cluster, and how their answers are read."""
