"""The HTTP API: stateless replicas over `pipeline.jobs.service`. `app` has the routes; the rest is what they need."""
