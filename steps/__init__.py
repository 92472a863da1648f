"""What runs inside a pod, or as a child process of `sixview run`. Knows files and arrays, nothing of Argo or S3."""
