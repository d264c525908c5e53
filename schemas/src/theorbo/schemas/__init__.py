"""What every part of Theorbo shares: names, limits, wire and record formats, events, states.

Three layers, each with its own needs:

* base, standard library only (runs in any frozen analysis environment, Python 3.9 and later):
  `errors`, `limits`, `names`, `records`, `frames`, `spool`, `delivery`, `connection`, `command`;
* ``[models]``, pydantic: `events`, `states`, `outcome`, `presentation`;
* ``[link]``, pyzmq: `link`, `fetching`.
"""

__version__ = "0.1.0"
