"""``a2actl chaos``: a seeded nemesis breaks a fleet under load, and what was promised is checked and measured.

``kinds`` and ``plan`` decide what is broken when, and are pure. ``stage`` is the fleet, ``faults`` breaks and mends it,
``load`` gives it work, ``tasks`` are the handlers, whose runs ``ledger`` reads. ``watch`` reads what the fleet noticed,
``measure`` times each fault, ``checker`` judges the whole, ``report`` prints it, ``run`` is the order of all that.
"""
