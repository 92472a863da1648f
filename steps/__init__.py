"""The steps of a job: each runs in a pod, or as a child process of `sixview run`. They use files and arrays, not Argo or S3."""
