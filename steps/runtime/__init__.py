"""Runtime of a step: parameters and outputs (contract), errors, and the supervising process. Standard library only."""
