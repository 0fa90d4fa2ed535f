"""The mutants: mistakes that somebody could make, one line each."""

from __future__ import annotations

from tests.mutation.patch import Mutant
from tests.mutation.unit_table import UNIT_MUTANTS

CONTRACT = "tests/contract/test_store.py"
CLONE_TESTS = "tests/unit/test_clones.py"

ALLOCATOR = (
    Mutant("allocator", "MAX_REMEMBERED = 4", "MAX_REMEMBERED = 0"),
    Mutant("allocator", "    if lease.node_id != identity.node_id:", "    if False:"),
    Mutant("allocator", "if config.ipv4 is None or not config.ipv4.contains(lease.subnet):", "if config.ipv4 is None:"),
    Mutant("allocator", "reserved=chosen.reserved,", "reserved=False,"),
    Mutant("allocator", "window = list(islice(filter(free, bases), RANDOM_WINDOW))", "window = list(bases)"),
    Mutant(
        "allocator",
        "bases = range(int(pool.subnet_min), int(pool.subnet_max) + 1,",
        "bases = range(int(pool.subnet_min), int(pool.subnet_max),",
    ),
    Mutant("allocator", "        public_ip=identity.public_ip,\n", "        public_ip=IPv4Address('192.0.2.1'),\n"),
)

CONFIGURATION = (
    Mutant(
        "configuration",
        "        if self.error is None:\n            self.current =",
        "        if True:\n            self.current =",
    ),
    Mutant("configuration", "    if not proposed.ipv4.contains(held.subnet):", "    if False:"),
    Mutant(
        "configuration",
        "            self.error = error\n            return\n        self._proposed",
        "            return\n        self._proposed",
    ),
)

CONFLICTS = (
    Mutant("conflicts", "record.key != own_key and record.lease.node_id != identity.node_id:", "False:"),
    Mutant("conflicts", "list(texts.items())[:MAX_CONFLICTS]", "list(texts.items())[:0]"),
)

ENGINE = (
    Mutant(
        "engine",
        "if self._store_error is not None and all(each.error is None",
        "if self._store_error is not None and not all(each.error is None",
    ),
    Mutant(
        "engine",
        "            self._membership.update(self.view.load(snapshot, follower.asked_at))\n",
        "            self.view.load(snapshot, follower.asked_at)\n",
    ),
    Mutant(
        "engine",
        "            self._membership.update(self.view.apply(batch))\n",
        "            self.view.apply(batch)\n",
    ),
    Mutant("engine", "            self.keeper.observe()\n        elif", "            pass\n        elif"),
    Mutant("engine", "            self._followers[Span.LEASES].read_again(now)", "            pass"),
    Mutant("engine", "            self.keeper.configure(config)\n", "            pass\n"),
    Mutant("engine", "            memory=self.keeper.memory,\n", ""),
    Mutant("engine", "if new != old or table is not old.peers:", "if new != old:"),
    Mutant("engine", "        found.extend(self._membership.problems())\n", ""),
)

FOLLOWER = (
    Mutant("follower", "            if now < self._due:\n                return self._due\n", ""),
    Mutant(
        "follower", "        self._revision = snapshot.revision\n", "        self._revision = snapshot.revision + 1\n"
    ),
    Mutant("follower", "self._due = now if first_compaction else now + wait", "self._due = math.inf"),
    Mutant(
        "follower", "        self.error = None\n        self.last_contact = now\n", "        self.last_contact = now\n"
    ),
    Mutant("follower", "self.limit, self.first * 2.0 ** min(self.failures - 1, 16)", "self.limit, 0.0"),
    Mutant(
        "follower",
        "if self.phase in (FollowPhase.LOADED, FollowPhase.WATCHING):",
        "if self.phase is FollowPhase.LOADED:",
    ),
)

KEEPER = (
    Mutant("keeper", "        if self.phase is Phase.HELD:\n            self._judge()\n", ""),
    Mutant(
        "keeper", "            return record.lease.public_ip == self.identity.public_ip\n", "            return True\n"
    ),
    Mutant("keeper", "        if self._held is None and not fits(record.lease, config):", "        if False:"),
    Mutant("keeper", "            self.error = None  # what failed", "            pass  # what failed"),
    Mutant(
        "keeper",
        "        self._retry_at = now + wait\n        if isinstance",
        "        self._retry_at = now\n        if isinstance",
    ),
    Mutant("keeper", "        self._know_address(identity.public_ip)\n", ""),
    Mutant(
        "keeper", "            valid_until = 0.0\n        else:", "            valid_until = math.inf\n        else:"
    ),
    Mutant("keeper", "        self.memory = self.memory.with_lease(record.lease, self._session.lease_id)\n", ""),
    Mutant(
        "keeper",
        "        elif not self._is_ours(record):\n            self._lose(record)",
        "        elif not self._is_ours(record):\n            self._hold_as(record)",
    ),
)

MEMBERSHIP = (
    Mutant("membership", "if lease.public_ip == identity.public_ip or", "if False or"),
    Mutant("membership", "        if self._own is not None and lease.subnet.overlaps(self._own):", "        if False:"),
    Mutant("membership", "            before = self._candidates.pop(key, None)\n", "            before = None\n"),
    Mutant("membership", "            self._peers.pop(subnet, None)", "            pass"),
    Mutant("membership", "        self.update([*self._view.records, *self._view.malformed])\n", ""),
    Mutant("membership", "        self._table = None\n        if keys:", "        if keys:"),
)

PLANE = (
    Mutant("plane", "self._engine.lost(span, error, self._clock())", "pass"),
    Mutant(
        "plane",
        "                await asyncio.sleep(max(0.0, step - self._clock()))\n",
        "                await asyncio.sleep(60.0)\n",
    ),
    Mutant("plane", "                if batch.events:\n                    self._input()\n", "                pass\n"),
    Mutant("plane", "            self._wake.clear()\n", ""),
    Mutant("plane", "                self._watches[Span.LEASES].interrupt()", "                pass"),
    Mutant("plane", "self._engine.failed(error, self._clock())", "self._engine.completed(None, self._clock())"),
    Mutant("plane", "            self._published.set()\n", ""),
    Mutant("plane", "            self._engine.keeper.identify(identity)\n", "            pass\n"),
    Mutant(
        "plane",
        "        if not task.cancelled():\n            task.result()",
        "        if False:\n            task.result()",
    ),
)

SESSION = (
    Mutant("session", "        self.valid_until = since + ttl\n", "        self.valid_until = since + ttl + 30\n"),
    Mutant("session", "        self.refresh_due = since +", "        self.refresh_due = since + 3 *"),
    Mutant("session", "        if ttl <= 0 or", "        if False or"),
    Mutant("session", "self.lease_id = self._rng.randrange(1, 2**63)", "self.lease_id = 7"),
)

VIEW = (
    Mutant("view", "Compare(key, kv.mod_revision, kv.value)", "Compare(key, kv.mod_revision)"),
    Mutant("view", "        for key in changed:\n            self._remove(key)\n", ""),
    Mutant(
        "view",
        "            if event.deleted:\n                self._remove(event.kv.key)\n            else:\n",
        "            if True:\n",
    ),
    Mutant("view", "            if other <= length:\n", "            if other == length:\n"),
    Mutant("view", "            self.malformed[kv.key] = error\n", ""),
)

SCHEMA = (
    Mutant("schema", '        "PublicIP": str(lease.public_ip),\n', '        "PublicIP": "0.0.0.0",\n'),
    Mutant("schema", '        fields["NodeID"] = lease.node_id\n', "        pass\n"),
)

MEMBERS = (
    Mutant("members", "        if _depth(text) > MAX_DEPTH:", "        if False:", ("tests/unit/test_schema.py",)),
)

LINGER = (
    Mutant(
        "linger", "if now < until and not _taken(peer, table, longer)", "if now < until", ("tests/unit/test_linger.py",)
    ),
    Mutant(
        "linger",
        "                if subnet not in table.peers:",
        "                if False:",
        ("tests/unit/test_linger.py",),
    ),
)

MEMORY = (
    Mutant("memory", "        if after + 1 < self.compacted:", "        if False:", (CONTRACT,)),
    Mutant(
        "memory",
        "        self._leases.setdefault(lease_id, _EtcdLease(ttl, now + ttl))",
        "        self._leases[lease_id] = _EtcdLease(ttl, now + ttl)",
        (CONTRACT,),
    ),
    Mutant(
        "memory",
        "    return compare.mod_revision == item.mod_revision and compare.value in (None, item.value)",
        "    return compare.mod_revision == item.mod_revision",
        (CONTRACT,),
    ),
    Mutant("memory", "        self._detach(put.key)\n", "", (CONTRACT,)),
)

ETCD = (
    Mutant("etcd", "    if compare.value is not None:", "    if False:", (CONTRACT,)),
    Mutant(
        "etcd",
        "        except LeaseExistsError:\n            return",
        "        except LeaseExistsError:\n            raise",
        (CONTRACT,),
    ),
    Mutant(
        "etcd",
        "        except LeaseNotFoundError:\n            return",
        "        except LeaseNotFoundError:\n            raise",
        (CONTRACT,),
    ),
    Mutant("etcd", "max(int(answer.TTL), 1)  # below", "int(answer.TTL) + 9  # below", (CONTRACT,)),
    Mutant("etcd", "value=value, lease=lease_id)", "value=value)", (CONTRACT,)),
    Mutant("etcd_watch", "if event.kv.mod_revision > after]", "if event]", (CONTRACT,)),
    Mutant(
        "etcd_watch",
        "                revision = events[-1].kv.mod_revision",
        "                revision = response.header.revision",
        (CONTRACT,),
    ),
    Mutant("etcd_watch", "deleted=event.type == event.DELETE)", "deleted=False)", (CONTRACT,)),
    Mutant(
        "etcd_watch",
        "        return CompactedError(response.compact_revision)",
        "        return CompactedError(0)",
        (CONTRACT,),
    ),
    Mutant("etcd_api", '"stream" if streaming else "unary"', '"unary"', (CONTRACT,)),
    Mutant("etcd_api", 'f"/{_PACKAGE}.{name}/{method.name}"', 'f"/{name}/{method.name}"', (CONTRACT,)),
    Mutant("etcd_rpc", '        return b""\n', '        return b"\\0"\n', (CONTRACT,)),
    Mutant("etcd_rpc", "kv.mod_revision, kv.lease)", "kv.mod_revision)", (CONTRACT,)),
    Mutant("etcd_cluster", "        self._closed = True\n", "", (CONTRACT,)),
    Mutant("etcd_errors", "return LeaseNotFoundError(", "return StoreUnavailableError(", (CONTRACT,)),
    Mutant(
        "etcd_errors",
        '    details = error.details() or ""\n    return error.code() is',
        '    details = ""\n    return error.code() is',
        ("tests/unit/test_etcd_errors.py",),
    ),
    Mutant(
        "etcd_settings",
        "        return tuple(dict.fromkeys(",
        "        return tuple((",
        ("tests/unit/test_etcd_settings.py",),
    ),
    Mutant("etcd_settings", "port or CLIENT_PORT", "port or 4001", ("tests/unit/test_etcd_settings.py",)),
)

CLONES = (
    Mutant(
        "question",
        "        return Reply.WAITING if now < self.until else Reply.SILENCE",
        "        return Reply.SILENCE",
        (CLONE_TESTS,),
    ),
    Mutant("question", "            return Reply.ALIVE  #", "            return Reply.WAITING  #", (CLONE_TESTS,)),
    Mutant(
        "rivals", "            self.due = now + self._backoff.next()\n", "            self.due = now\n", (CLONE_TESTS,)
    ),
    Mutant("rivals", "        if self._count < 2:", "        if True:", (CLONE_TESTS,)),
    Mutant("rivals", "        if now >= self._over_at:", "        if False:", (CLONE_TESTS,)),
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
    *MEMORY,
    *ETCD,
    *UNIT_MUTANTS,
)
