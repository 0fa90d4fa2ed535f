"""What people see of the overlay: ``logging`` the daemons' log, ``capture`` packets decoded (the one user of scapy)."""
