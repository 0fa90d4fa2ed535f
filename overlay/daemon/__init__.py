"""What every daemon of this package needs, whatever it does.

``troubles`` what is wrong, for the log · ``lock`` one daemon a state directory · ``sd_notify`` talks to systemd ·
``http`` answers probes · ``status_socket`` the daemon's report of itself · ``confined/`` a helper process that may do
nothing but its work.
"""
