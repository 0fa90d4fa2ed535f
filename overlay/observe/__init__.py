"""What people see of the overlay: ``logging`` the daemons' log, ``status`` the agent's report of itself, ``capture``
packets decoded (the one user of scapy)."""
