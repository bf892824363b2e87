"""How a service runs: configuration, serving, calls within the process, logs, metrics, the journal. No domain words."""
