"""The `conduit` command: one module for each verb."""
