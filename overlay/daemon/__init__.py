"""The chassis: what every daemon of this package stands on, whatever it does.

A daemon is a :class:`~overlay.daemon.lifetime.Daemon` and a function that brings it up::

    async def run(settings: Settings) -> None:
        daemon = Daemon("services", settings.state_dir)  # services.lock, services.sock
        await daemon.run(lambda: bring_up(daemon, settings))  # until SIGTERM, or a task fails: that is raised

    async def bring_up(daemon: Daemon, settings: Settings) -> None:
        store = EtcdStore(settings.etcd)
        daemon.at_end(store.close)  # no task runs then; last told, first closed
        table = Table(store, daemon.troubles)  # says what is wrong: troubles.found("table", problems)
        proxy = daemon.keep("proxy", lambda: render(table), every=30.0)  # now, when told, and every 30 s
        daemon.start("table", table.follow(proxy.occasion.tell))  # for ever; its error ends the daemon
        daemon.start("machine", changes_of_this_machine(proxy.occasion))  # netlink tells it too
        daemon.answer(lambda: report(daemon.troubles.now, table))  # JSON, for whoever asks services.sock
        daemon.beat(table.is_alive, table.one_line)  # systemd's status and watchdog
        await table.first()
        daemon.notifier.ready()

====================  ================================================================================================
``lifetime``          start, signals, tasks, the order in which it stops; what a task raises is the exit status
``occasions``         what wakes a loop: being told, netlink, time
``reconcile``         the one loop: compare, mend, wait for an occasion; a failure is a problem while it lasts
``troubles``          what is wrong now, by who found it; logged when it begins, seldom while it lasts, when it is over
``clock``             seconds that also count suspended time
``lock``              one daemon of a name a state directory
``heap``, ``lean``    memory that goes back to the kernel, and what is not loaded in the first place
``sd_notify``         systemd's status and watchdog
``http``              probes
``status_socket``     the report of itself, for whoever connects
``threads``           calls that block, which a caller that is cancelled waits for
``confined/``         a helper process that may do nothing but its work
====================  ================================================================================================

Nothing here knows what a daemon is for. Imports go down to ``linux``, ``problem`` and ``errors`` only.
"""
