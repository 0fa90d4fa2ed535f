"""Where users are: other kernels, other releases of Debian, other Dockers and etcds, each a cell of one matrix.

    debian ──▶ kernel, image ──▶ vm ─┐
    fresh.sh, support/roots ─────────┼──▶ cells ──▶ __main__   make test-platforms [ONLY='kernel-*']
                                     └──▶ bench                make bench-vm

``debian`` fetches packages of any suite; ``kernel`` unpacks one of them and makes what it boots from; ``image`` packs
this machine's programs and this checkout into layers of a root; ``vm`` runs a job on these, in software emulation.
``cells`` is the matrix as data. What is fetched and built stays in a cache outside of the tree, and so do the logs.
"""
