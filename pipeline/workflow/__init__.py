"""The WorkflowTemplate: a step's contract becomes a pod."""
