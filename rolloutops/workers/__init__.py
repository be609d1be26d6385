"""Several processes of one command, on this machine or on a Ray cluster, shown as one."""
