"""The HTTP API: stateless replicas over `pipeline.jobs.service`. `app` assembles the FastAPI application."""
