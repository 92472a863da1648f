"""Operations on jobs (submit, status, cancel, fetch, retry), and why a job waits or has failed."""
