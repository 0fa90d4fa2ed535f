"""The store's contract on a real etcd, v3 API.

``client`` keeps the contract · ``cluster`` chooses the member to talk to, with its credentials · ``watch`` keeps a
watch honest (frozen, cancelled, compacted) · ``rpc`` makes requests and reads answers · ``errors`` says what gRPC's
errors mean · ``api`` is etcd's own description of its messages, from the package etcd3 · ``settings`` are the flags.
"""
