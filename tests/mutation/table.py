"""The mutants: mistakes that somebody could make, one line each."""

from __future__ import annotations

from tests.mutation.daemon_table import DAEMON_MUTANTS
from tests.mutation.patch import Mutant
from tests.mutation.unit_table import UNIT_MUTANTS

CONTRACT = "tests/contract/test_store.py"
CLONE_TESTS = "tests/unit/control/leases/test_clones.py"

ALLOCATOR = (
    Mutant("control/leases/allocator", "MAX_REMEMBERED = 4", "MAX_REMEMBERED = 0"),
    Mutant("control/leases/allocator", "    if lease.node_id != identity.node_id:", "    if False:"),
    Mutant(
        "control/leases/allocator",
        "if config.ipv4 is None or not config.ipv4.contains(lease.subnet):",
        "if config.ipv4 is None:",
    ),
    Mutant("control/leases/allocator", "reserved=chosen.reserved,", "reserved=False,"),
    Mutant(
        "control/leases/allocator", "window = list(islice(filter(free, bases), RANDOM_WINDOW))", "window = list(bases)"
    ),
    Mutant(
        "control/leases/allocator",
        "bases = range(int(pool.subnet_min), int(pool.subnet_max) + 1,",
        "bases = range(int(pool.subnet_min), int(pool.subnet_max),",
    ),
    Mutant(
        "control/leases/allocator",
        "        public_ip=identity.public_ip,\n",
        "        public_ip=IPv4Address('192.0.2.1'),\n",
    ),
)

CONFIGURATION = (
    Mutant(
        "control/configuration",
        "        if self.error is None:\n            self.current =",
        "        if True:\n            self.current =",
    ),
    Mutant("control/configuration", "    if not proposed.ipv4.contains(held.subnet):", "    if False:"),
    Mutant(
        "control/configuration",
        "            self.error = error\n            return\n        self._proposed",
        "            return\n        self._proposed",
    ),
)

CONFLICTS = (
    Mutant("control/leases/conflicts", "record.key != own_key and record.lease.node_id != identity.node_id:", "False:"),
    Mutant("control/leases/conflicts", "list(found.values())[:MAX_CONFLICTS]", "list(found.values())[:0]"),
)

ENGINE = (
    Mutant(
        "control/engine",
        "if self._store_error is not None and all(each.error is None",
        "if self._store_error is not None and not all(each.error is None",
    ),
    Mutant(
        "control/engine",
        "            self._membership.update(self.view.load(snapshot, follower.asked_at))\n",
        "            self.view.load(snapshot, follower.asked_at)\n",
    ),
    Mutant(
        "control/engine",
        "            self._membership.update(self.view.apply(batch))\n",
        "            self.view.apply(batch)\n",
    ),
    Mutant("control/engine", "            self.keeper.observe()\n        elif", "            pass\n        elif"),
    Mutant("control/engine", "            self._followers[Span.LEASES].read_again(now)", "            pass"),
    Mutant("control/engine", "        self.keeper.configure(wanted, advertisement)\n", "        pass\n"),
    Mutant("control/engine", "            memory=self.keeper.memory,\n", ""),
    Mutant("control/engine", "if new != old or table is not old.peers:", "if new != old:"),
    Mutant("control/engine", "        found.extend(self._membership.problems())\n", ""),
)

FOLLOWER = (
    Mutant("store/follower", "        if now < self._due:\n            return self._due\n", ""),
    Mutant("store/follower", "self.revision = snapshot.revision\n", "self.revision = snapshot.revision + 1\n"),
    Mutant("store/follower", "        self._interrupt(now + wait)", "        self._interrupt(1e9)"),
    Mutant(
        "store/follower",
        "        self.error = None\n        self.last_contact = now\n",
        "        self.last_contact = now\n",
    ),
    Mutant("store/follower", "            self._known = False\n        else:", "            pass\n        else:"),
    Mutant("store/follower", "        self.connected = True\n", ""),
    Mutant("store/following", "                    if not known.agrees(past):", "                    if False:"),
    Mutant("store/recall", "answer.count == self.count and set", "True or set"),
    Mutant("store/recall", " and set(map(self.kept, answer.items)) == set(self.marks)", ""),
    Mutant("rates", "self.limit, self.first * 2.0 ** min(self.failures - 1, 16)", "self.limit, 0.0"),
    Mutant(
        "store/follower",
        "        self._known = False\n        if self.phase is not FollowPhase.DUE:",
        "        if self.phase is not FollowPhase.DUE:",
    ),
)

KEEPER = (
    Mutant("control/leases/keeper", "        if self.phase is Phase.HELD:\n            self._judge()\n", ""),
    Mutant(
        "control/leases/ownership",
        "            return record.lease.public_ip == self.identity.public_ip\n",
        "            return True\n",
    ),
    Mutant(
        "control/leases/keeper",
        "        if self._held is None and not fits(record.lease, config):",
        "        if False:",
    ),
    Mutant(
        "control/leases/pending",
        "                self.error = None  # what failed",
        "                pass  # what failed",
    ),
    Mutant(
        "control/leases/pending",
        "        self.retry_at = now + wait\n        if isinstance",
        "        self.retry_at = now\n        if isinstance",
    ),
    Mutant(
        "control/leases/ownership",
        "(address, *(known for known in self._addresses if known != address))[:MAX_ADDRESSES]",
        "self._addresses",
    ),
    Mutant(
        "control/leases/keeper",
        "            valid_until = 0.0\n        else:",
        "            valid_until = math.inf\n        else:",
    ),
    Mutant(
        "control/leases/keeper",
        "        self.memory = self.memory.with_lease(record.lease, self._session.lease_id)\n",
        "",
    ),
    Mutant(
        "control/leases/keeper",
        "        elif not self._ownership.is_ours(record):\n            self._lose(record)",
        "        elif not self._ownership.is_ours(record):\n            self._hold_as(record)",
    ),
)

MEMBERSHIP = (
    Mutant("control/peers/membership", "if lease.public_ip == identity.public_ip or", "if False or"),
    Mutant(
        "control/peers/membership",
        "        if self._own is not None and lease.subnet.overlaps(self._own):",
        "        if False:",
    ),
    Mutant(
        "control/peers/membership",
        "            before = self._candidates.pop(key, None)\n",
        "            before = None\n",
    ),
    Mutant("control/peers/membership", "            self._peers.pop(subnet, None)", "            pass"),
    Mutant("control/peers/membership", "        self.update([*self._view.records, *self._view.malformed])\n", ""),
    Mutant("control/peers/membership", "        self._table = None\n        if keys:", "        if keys:"),
)

PLANE = (
    Mutant("store/following", "self._follows.lost(error, self._clock())", "pass"),
    Mutant(
        "store/following",
        "                await asyncio.sleep(max(0.0, step - self._clock()))\n",
        "                await asyncio.sleep(60.0)\n",
    ),
    Mutant(
        "store/following",
        "                if batch.events:\n                    self._told()\n",
        "                pass\n",
    ),
    Mutant("control/plane", "            self._wake.clear()\n", ""),
    Mutant("control/plane", "                self._following[Span.LEASES].interrupt()", "                pass"),
    Mutant("control/plane", "self._engine.failed(error, self._clock())", "self._engine.completed(None, self._clock())"),
    Mutant("control/plane", "            self._published.set()\n", ""),
    Mutant("control/plane", "            self._engine.keeper.identify(identity)\n", "            pass\n"),
    Mutant(
        "store/following",
        "        if not task.cancelled():\n            task.result()",
        "        if False:\n            task.result()",
    ),
)

SESSION = (
    Mutant(
        "store/session", "        self.valid_until = since + ttl\n", "        self.valid_until = since + ttl + 30\n"
    ),
    Mutant("store/session", "        self.refresh_due = since +", "        self.refresh_due = since + 3 *"),
    Mutant("store/session", "        if ttl <= 0 or", "        if False or"),
    Mutant("store/session", "self.lease_id = self._rng.randrange(1, 2**63)", "self.lease_id = 7"),
)

VIEW = (
    Mutant("store/mirror", "Compare(key, kv.mod_revision, kv.value)", "Compare(key, kv.mod_revision)"),
    Mutant("store/mirror", "        for key in changed:\n            self._remove(key)\n", ""),
    Mutant(
        "store/mirror",
        "            if event.deleted:\n                self._remove(event.kv.key)\n            else:\n",
        "            if True:\n",
    ),
    Mutant("control/leases/index", "            if other <= length:\n", "            if other == length:\n"),
    Mutant("control/leases/view", "            self.malformed[kv.key] = error\n", ""),
)

SCHEMA = (
    Mutant("control/schema/lease", '        "PublicIP": str(lease.public_ip),\n', '        "PublicIP": "0.0.0.0",\n'),
    Mutant("control/schema/lease", '        fields["NodeID"] = lease.node_id\n', "        pass\n"),
)

MEMBERS = (
    Mutant(
        "store/gojson",
        "        if _depth(text) > MAX_DEPTH:",
        "        if False:",
        ("tests/unit/control/schema",),
    ),
)

LINGER = (
    Mutant(
        "control/peers/linger",
        "if now < until and not _taken(peer, table, longer)",
        "if now < until",
        ("tests/unit/control/peers/test_linger.py",),
    ),
    Mutant(
        "control/peers/linger",
        "                if subnet not in table.peers:",
        "                if False:",
        ("tests/unit/control/peers/test_linger.py",),
    ),
)

ETCD = (
    Mutant(
        "store/etcd/client", 'b"\\0", limit=limit, revision=first.header.revision', 'b"\\0", limit=limit', (CONTRACT,)
    ),
    Mutant("store/etcd/client", 'begin=answer.kvs[-1].key + b"\\0"', "begin=answer.kvs[-1].key", (CONTRACT,)),
    Mutant("store/etcd/client", "prefix=False), revision=revision) for", "prefix=False)) for", (CONTRACT,)),
    Mutant(
        "store/etcd/client",
        "[_range(span, revision=revision, count_only=True)]",
        "[_range(span, count_only=True)]",
        (CONTRACT,),
    ),
    Mutant("store/etcd/watch", "        yield Events(revision, ())\n", "", (CONTRACT,)),
    Mutant("store/etcd/client", "    if compare.value is not None:", "    if False:", (CONTRACT,)),
    Mutant(
        "store/etcd/client",
        "        except LeaseExistsError:\n            return",
        "        except LeaseExistsError:\n            raise",
        (CONTRACT,),
    ),
    Mutant(
        "store/etcd/client",
        "        except LeaseNotFoundError:\n            return",
        "        except LeaseNotFoundError:\n            raise",
        (CONTRACT,),
    ),
    Mutant("store/etcd/client", "max(int(answer.TTL), 1)  # below", "int(answer.TTL) + 9  # below", (CONTRACT,)),
    Mutant("store/etcd/client", "value=value, lease=lease_id)", "value=value)", (CONTRACT,)),
    Mutant("store/etcd/watch", "if event.kv.mod_revision > after]", "if event]", (CONTRACT,)),
    Mutant(
        "store/etcd/watch",
        "                revision = events[-1].kv.mod_revision",
        "                revision = response.header.revision",
        (CONTRACT,),
    ),
    Mutant("store/etcd/watch", "deleted=event.type == event.DELETE)", "deleted=False)", (CONTRACT,)),
    Mutant(
        "store/etcd/watch",
        "        return CompactedError(response.compact_revision)",
        "        return CompactedError(0)",
        (CONTRACT,),
    ),
    Mutant("store/etcd/api", '"stream" if streaming else "unary"', '"unary"', (CONTRACT,)),
    Mutant("store/etcd/api", 'f"/{_PACKAGE}.{name}/{method.name}"', 'f"/{name}/{method.name}"', (CONTRACT,)),
    Mutant("store/etcd/rpc", '        return b""\n', '        return b"\\0"\n', (CONTRACT,)),
    Mutant("store/etcd/rpc", "kv.mod_revision, kv.lease)", "kv.mod_revision)", (CONTRACT,)),
    Mutant("store/etcd/cluster", "        self._closed = True\n", "", (CONTRACT,)),
    Mutant("store/etcd/errors", "return LeaseNotFoundError(", "return StoreUnavailableError(", (CONTRACT,)),
    Mutant(
        "store/etcd/errors",
        '    details = error.details() or ""\n    return error.code() is',
        '    details = ""\n    return error.code() is',
        ("tests/unit/store/etcd/test_errors.py",),
    ),
    Mutant(
        "store/etcd/settings",
        "        return tuple(dict.fromkeys(",
        "        return tuple((",
        ("tests/unit/store/etcd/test_settings.py",),
    ),
    Mutant("store/etcd/settings", "port or CLIENT_PORT", "port or 4001", ("tests/unit/store/etcd/test_settings.py",)),
)

CLONES = (
    Mutant(
        "control/leases/question",
        "        return Reply.WAITING if now < self.until else Reply.SILENCE",
        "        return Reply.SILENCE",
        (CLONE_TESTS,),
    ),
    Mutant(
        "control/leases/question",
        "            return Reply.ALIVE  #",
        "            return Reply.WAITING  #",
        (CLONE_TESTS,),
    ),
    Mutant(
        "control/leases/rivals",
        "            self.due = now + self._backoff.next()\n",
        "            self.due = now\n",
        (CLONE_TESTS,),
    ),
    Mutant("control/leases/rivals", "        if self._count < 2:", "        if True:", (CLONE_TESTS,)),
    Mutant("control/leases/rivals", "        if now >= self._over_at:", "        if False:", (CLONE_TESTS,)),
)

MUTANTS: tuple[Mutant, ...] = (
    *ALLOCATOR,
    *CLONES,
    *CONFIGURATION,
    *CONFLICTS,
    *ENGINE,
    *FOLLOWER,
    *KEEPER,
    *MEMBERSHIP,
    *PLANE,
    *SESSION,
    *VIEW,
    *SCHEMA,
    *MEMBERS,
    *LINGER,
    *ETCD,
    *UNIT_MUTANTS,
    *DAEMON_MUTANTS,
)
