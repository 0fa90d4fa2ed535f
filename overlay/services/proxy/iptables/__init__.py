"""Services as chains of iptables. Linear: what a new connection costs grows with the number of Services.

``rendering`` (pure): a table as chains; ``mode``: :class:`~overlay.services.proxy.iptables.mode.IptablesMode`, which
reads what there is and carries differences out.
"""
