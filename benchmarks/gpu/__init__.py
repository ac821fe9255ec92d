"""Every GPU rung measured on a host that has a GPU and no network: see README.md in this folder."""
