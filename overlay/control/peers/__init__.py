"""Who the others are: ``membership`` makes a table of peers of all leases, ``linger`` keeps one that has just gone."""
