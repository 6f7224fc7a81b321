"""The Ray Train side: data-parallel training of entire-space models.

The name is also dask's; entry points check this marker, so that a shadowed import is an error with a reason.
"""

COUNTERPOINT = True
