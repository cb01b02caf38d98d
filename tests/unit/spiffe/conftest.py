"""Property tests here have no deadline (a busy machine is no fault) and leave no database of examples behind."""

from hypothesis import settings

settings.register_profile("trustfed", deadline=None, database=None)
settings.load_profile("trustfed")
