"""The Argo WorkflowTemplate: DAG, container templates, and their rendering for the Helm chart."""
